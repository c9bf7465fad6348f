// Package netns makes network namespaces without a name, works inside them and
// connects them with veth pairs.
//
// A [Namespace] is held by a file descriptor. It is never named in /run/netns,
// so nothing is left behind when the process dies: the kernel destroys a
// namespace, its links and its routes with the last descriptor, process or
// socket that holds it.
//
// # Threads
//
// Linux keeps the network namespace per thread, while Go moves goroutines
// between threads. Every function of this package that enters a namespace
// therefore does so on a goroutine of its own, locked to its thread, and moves
// the thread back afterwards. A thread that cannot be moved back stays locked,
// and the Go runtime destroys it when that goroutine ends. The caller's thread
// never changes its namespace.
package netns

import (
	"fmt"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// threadFile is the calling thread's network namespace; /proc/self would be
// the main thread's.
const threadFile = "/proc/thread-self/ns/net"

// Namespace is a network namespace, kept alive by a file descriptor.
type Namespace struct {
	file *os.File
}

// New creates an empty network namespace and sets its loopback link up. It
// needs CAP_SYS_ADMIN. The caller owns the Namespace and closes it.
func New() (*Namespace, error) {
	unshare := func() error { return unix.Unshare(unix.CLONE_NEWNET) }

	var made *Namespace
	err := visit(unshare, func() (err error) {
		made, err = Current()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("create network namespace: %w", err)
	}

	// Not only for the sake of 127.0.0.1: package net probes once per process
	// whether IPv6 works by binding ::1, and remembers the answer of the
	// namespace that it happens to be in.
	err = made.setUp("lo")
	if err == nil {
		err = made.onLink("lo", awaitLocalRoutes)
	}
	if err != nil {
		made.Close()
		return nil, fmt.Errorf("create network namespace: %w", err)
	}
	return made, nil
}

// Current returns the network namespace of the calling thread: the one that
// the process was started in, unless called inside [Namespace.Do]. The caller
// owns the Namespace and closes it.
func Current() (*Namespace, error) {
	file, err := os.Open(threadFile)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return &Namespace{file}, nil
}

// Fd returns the file descriptor that holds the namespace. It stays owned by
// the Namespace and is -1 after Close.
func (n *Namespace) Fd() int { return int(n.file.Fd()) }

// Close gives up the descriptor. The namespace lives on while processes or
// sockets are inside.
func (n *Namespace) Close() error { return n.file.Close() }

// Cookie returns the number by which BPF programs know the namespace, in host
// byte order. Kernels before 5.14 cannot tell: the error then matches
// [unix.ENOPROTOOPT].
func (n *Namespace) Cookie() (uint64, error) {
	var cookie uint64
	err := n.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read network namespace cookie: %w", err)
	}
	return cookie, nil
}

// Handle returns a route netlink handle that works inside the namespace from
// any goroutine. The caller closes it.
func (n *Namespace) Handle() (*netlink.Handle, error) {
	var handle *netlink.Handle
	err := n.Do(func() (err error) {
		handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open route netlink: %w", err)
	}
	// The kernel answers at once; a handle that waits for ever would hang its
	// caller over a message lost to a full buffer.
	if err := handle.SetSocketTimeout(10 * time.Second); err != nil {
		handle.Close()
		return nil, fmt.Errorf("set route netlink timeout: %w", err)
	}
	return handle, nil
}
