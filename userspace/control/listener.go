package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	socketMode = 0o660
	folderMode = 0o755
)

// Listen makes the socket at path with mode 0660, and its folder with mode 0755
// if there is none. A socket that nobody answers is replaced. The error matches
// [ErrHeld] when somebody does, and [ErrNotSocket] when the file is none.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), folderMode); err != nil {
		return nil, fmt.Errorf("make folder of control socket: %w", err)
	}
	unlock, err := lock(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("lock control socket: %w", err)
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	config := net.ListenConfig{Control: restrict}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on control socket: %w", err)
	}
	// The umask may have taken the group's part of the mode.
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(fmt.Errorf("set mode of control socket: %w", err), l.Close())
	}
	return l, nil
}

// lock holds a lock beside the socket, so that of two agents that start at once
// the second does not remove the first one's fresh socket as stale. The file
// stays: to remove it would let a third agent lock another one.
func lock(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f.Close, nil
}

// removeStale removes a socket that refuses connections.
func removeStale(path string) error {
	stat, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case stat.Mode().Type() != fs.ModeSocket:
		return ErrNotSocket
	}
	// The kernel answers at once. A limit of time would only keep an agent from
	// starting on a busy host.
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		return errors.Join(ErrHeld, conn.Close())
	case errors.Is(err, syscall.EAGAIN): // more wait for its owner than its queue holds
		return ErrHeld
	case !errors.Is(err, syscall.ECONNREFUSED):
		return err
	}
	return os.Remove(path)
}

// restrict sets the mode before bind gives the socket its name: the name takes
// the mode of the socket, and so is never open to others.
func restrict(_, _ string, raw syscall.RawConn) error {
	var err error
	if controlErr := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), socketMode) }); controlErr != nil {
		return controlErr
	}
	return err
}
