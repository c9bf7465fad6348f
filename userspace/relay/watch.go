package relay

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// watch tells when an application resets its connection while nobody reads or
// writes it: its edge is being dialed, or takes nothing for now. The sockets
// are in an epoll set that asks for no event, and so reports errors only; that
// set is itself a descriptor that Go's own poller waits for.
type watch struct {
	set   *os.File
	raw   syscall.RawConn
	reset func(id uint64)
	run   sync.WaitGroup
}

// newWatch starts a watch that calls reset, on its goroutine, for connections
// that were reset, by the number that they were added with.
func newWatch(reset func(id uint64)) (*watch, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll set: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // or os.File does not poll it
		unix.Close(fd)
		return nil, fmt.Errorf("make epoll set non-blocking: %w", err)
	}
	w := &watch{set: os.NewFile(uintptr(fd), "epoll"), reset: reset}
	if w.raw, err = w.set.SyscallConn(); err != nil {
		w.set.Close()
		return nil, fmt.Errorf("poll epoll set: %w", err)
	}
	w.run.Go(w.wait)
	return w, nil
}

// add watches conn until it is closed.
func (w *watch) add(conn *net.TCPConn, id uint64) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	event := unix.EpollEvent{Events: unix.EPOLLET, Fd: int32(id), Pad: int32(id >> 32)}
	var connErr, addErr error
	err = w.raw.Control(func(set uintptr) {
		connErr = raw.Control(func(fd uintptr) {
			addErr = unix.EpollCtl(int(set), unix.EPOLL_CTL_ADD, int(fd), &event)
		})
	})
	return cmp.Or(err, connErr, addErr)
}

// wait reports resets until the set is closed.
func (w *watch) wait() {
	events := make([]unix.EpollEvent, 128)
	w.raw.Read(func(set uintptr) bool {
		for {
			n, err := unix.EpollWait(int(set), events, 0)
			if err == unix.EINTR {
				continue
			}
			if n <= 0 {
				return false
			}
			w.report(events[:n])
		}
	})
}

// report ignores EPOLLHUP alone, which is the end of both directions in order.
func (w *watch) report(events []unix.EpollEvent) {
	for _, e := range events {
		if e.Events&unix.EPOLLERR != 0 {
			w.reset(uint64(uint32(e.Pad))<<32 | uint64(uint32(e.Fd)))
		}
	}
}

// close ends the watch and waits for its goroutine.
func (w *watch) close() {
	w.set.Close()
	w.run.Wait()
}
