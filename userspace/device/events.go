package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// events is a subscription to changes of devices and addresses, see
// rtnetlink(7). What they say is not read: it is asked for anew, which also
// makes up for those that were lost.
type events struct{ file *os.File }

func subscribe() (*events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route netlink: %w", err)
	}
	file := os.NewFile(uintptr(fd), "rtnetlink") // which waits without a thread
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to addresses: %w", err), file.Close())
	}
	return &events{file}, nil
}

func (e *events) close() error { return e.file.Close() }

// wait returns once there were changes, all of which it takes, or ctx is done.
// Changes that were lost (ENOBUFS) are changes.
func (e *events) wait(ctx context.Context) error {
	raw, err := e.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for changes of devices: %w", err)
	}
	if err := e.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("wait for changes of devices: %w", err)
	}
	defer context.AfterFunc(ctx, func() { e.file.SetReadDeadline(time.Unix(1, 0)) })()
	var errno error
	var first [1]byte // the rest of a message is dropped by the kernel
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
	if err = errors.Join(err, errno); err != nil {
		return fmt.Errorf("wait for changes of devices: %w", err)
	}
	return nil
}
