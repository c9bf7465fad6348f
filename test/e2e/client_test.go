package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// connectScenario connects one socket in the way of its first argument to the
// addresses of the others, one after the other, and prints for each what
// getpeername says and what the listener answered, or the errno.
func connectScenario(args []string, stdout io.Writer) error {
	for _, text := range args[1:] {
		if _, err := netip.ParseAddrPort(text); err != nil {
			return err
		}
	}
	c := client{way: args[0], fd: -1}
	defer c.close()
	for _, text := range args[1:] {
		answer, err := c.ask(netip.MustParseAddrPort(text))
		if errno, ok := errors.AsType[syscall.Errno](err); ok {
			answer, err = unix.ErrnoName(errno)+"\n", nil
		}
		if err != nil {
			return err
		}
		if _, err := io.WriteString(stdout, answer); err != nil {
			return err
		}
	}
	return nil
}

// client is one socket of an application.
type client struct {
	way string
	fd  int
}

// ioTimeout is for one answer on a busy machine.
const ioTimeout = time.Minute

func (c *client) ask(to netip.AddrPort) (string, error) {
	if err := c.open(to); err != nil {
		return "", err
	}
	err := c.connect(to)
	if err == unix.EINTR { // by a signal of Go's scheduler; the handshake goes on
		err = c.await()
	}
	if err != nil {
		return "", err
	}
	peer, err := unix.Getpeername(c.fd)
	if err != nil && err != unix.ENOTCONN { // reset already: read tells
		return "", os.NewSyscallError("getpeername", err)
	}
	buf := make([]byte, 256)
	var n int
	err = uninterrupted(func() (err error) {
		n, err = unix.Read(c.fd, buf)
		return err
	})
	if err != nil {
		return "", err
	}
	return "peer " + addrPortOf(peer).String() + " to " + string(buf[:n]), nil
}

// open makes the socket at the first call. Later ones undo the connection, as
// connect(2) describes it: by an address of family AF_UNSPEC.
func (c *client) open(to netip.AddrPort) error {
	if c.fd >= 0 {
		unspec := make([]byte, 16)
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(c.fd), bytesPointer(unspec), uintptr(len(unspec)))
		if errno != 0 {
			return os.NewSyscallError("disconnect", errno)
		}
		return nil
	}
	family, protocol := unix.AF_INET, 0
	if to.Addr().Is6() || c.way == "mapped" {
		family = unix.AF_INET6
	}
	if c.way == "mptcp" {
		protocol = unix.IPPROTO_MPTCP
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	c.fd = fd
	limit := unix.NsecToTimeval(int64(ioTimeout))
	return errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
	)
}

func (c *client) connect(to netip.AddrPort) error {
	addr := c.sockaddr(to)
	way, argument, _ := strings.Cut(c.way, "=")
	switch way {
	case "nonblock":
		return c.connectNonblocking(addr)
	case "fastopen":
		return unix.Sendto(c.fd, []byte("hello"), unix.MSG_FASTOPEN, addr)
	case "fastopen-connect":
		if err := unix.SetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
		if err := unix.Connect(c.fd, addr); err != nil {
			return err
		}
		_, err := unix.Write(c.fd, []byte("hello"))
		return err
	case "device":
		if err := unix.BindToDevice(c.fd, argument); err != nil {
			return os.NewSyscallError("bind to device", err)
		}
	case "source":
		if err := unix.Bind(c.fd, c.sockaddr(netip.MustParseAddrPort(argument))); err != nil {
			return os.NewSyscallError("bind", err)
		}
	case "uring":
		return uringConnect(c.fd, to)
	}
	return unix.Connect(c.fd, addr)
}

// connectNonblocking waits for the connection as event loops do.
func (c *client) connectNonblocking(addr unix.Sockaddr) error {
	if err := unix.SetNonblock(c.fd, true); err != nil {
		return err
	}
	if err := unix.Connect(c.fd, addr); err != unix.EINPROGRESS {
		return fmt.Errorf("connect gives %v, want EINPROGRESS", err)
	}
	if err := c.await(); err != nil {
		return err
	}
	return unix.SetNonblock(c.fd, false)
}

// await waits for the end of a handshake that is under way.
func (c *client) await() error {
	poll := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLOUT}}
	err := uninterrupted(func() error {
		_, err := unix.Poll(poll, int(ioTimeout.Milliseconds()))
		return err
	})
	if err != nil {
		return err
	}
	errno, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if errno != 0 {
		return syscall.Errno(errno)
	}
	return nil
}

// uninterrupted repeats a call until no signal has interrupted it.
func uninterrupted(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

func (c *client) sockaddr(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is4() && c.way != "mapped" {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

func (c *client) close() {
	if c.fd >= 0 {
		unix.Close(c.fd)
	}
}

// addrPortOf keeps IPv4-mapped addresses as they are.
func addrPortOf(addr unix.Sockaddr) netip.AddrPort {
	switch addr := addr.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(addr.Addr), uint16(addr.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(addr.Addr), uint16(addr.Port))
	}
	return netip.AddrPort{}
}
