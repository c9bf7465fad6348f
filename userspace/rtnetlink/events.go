package rtnetlink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Groups of changes, to be joined by |.
const (
	Links     = unix.RTMGRP_LINK
	Addresses = unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR
	Routes    = unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
)

// Events is a subscription to changes. What they say is not read: it is asked for
// anew, which also makes up for those that were lost.
type Events struct{ file *os.File }

// Subscribe subscribes to groups of changes in the calling thread's network
// namespace. The caller closes the subscription.
func Subscribe(groups uint32) (*Events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route netlink: %w", err)
	}
	file := os.NewFile(uintptr(fd), "rtnetlink") // which waits without a thread
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to route netlink: %w", err), file.Close())
	}
	return &Events{file}, nil
}

// SyscallConn gives the socket to tests that want it to be small.
func (e *Events) SyscallConn() (syscall.RawConn, error) { return e.file.SyscallConn() }

// Close ends the subscription.
func (e *Events) Close() error { return e.file.Close() }

// Wait returns once there were changes, all of which it takes, or ctx is done,
// which is no error. Changes that were lost (ENOBUFS) are changes.
func (e *Events) Wait(ctx context.Context) error {
	if err := e.wait(ctx); err != nil {
		return fmt.Errorf("wait for route netlink: %w", err)
	}
	return nil
}

func (e *Events) wait(ctx context.Context) error {
	raw, err := e.file.SyscallConn()
	if err != nil {
		return err
	}
	if err := e.file.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { e.file.SetReadDeadline(time.Unix(1, 0)) })()
	var errno error
	var first [1]byte // the kernel drops the rest of a message
	err = raw.Read(func(fd uintptr) (done bool) {
		for {
			_, _, errno = unix.Recvfrom(int(fd), first[:], unix.MSG_DONTWAIT)
			switch errno {
			case nil, unix.ENOBUFS:
				done = true
			case unix.EINTR:
			case unix.EAGAIN:
				errno = nil
				return done
			default:
				return true
			}
		}
	})
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(err, errno)
}
