package netns

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// errAbandoned is the result of a function that never returned.
var errAbandoned = errors.New("function ended its goroutine")

// Do runs f inside the namespace and returns its error as it is.
//
// f runs on another goroutine than the caller's, with its thread locked, so it
// must not call t.FailNow and the like, and it must NOT unlock its thread.
// Goroutines that f starts are outside the namespace. Sockets belong to the
// namespace that they were made in and can leave f.
func (n *Namespace) Do(f func() error) error {
	return visit(func() error { return n.enter() }, f)
}

// Start starts cmd inside the namespace; the caller waits for it. The child
// sees the namespace's links and sockets, but the files of the host: /sys, too,
// still shows the links of the namespace that mounted it.
func (n *Namespace) Start(cmd *exec.Cmd) error {
	return n.Do(cmd.Start)
}

func (n *Namespace) enter() error {
	if err := unix.Setns(n.Fd(), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// visit runs enter, which moves its thread to another namespace, then f, on a
// goroutine of their own. It returns when that goroutine is done for, even if f
// ended it by runtime.Goexit.
func visit(enter, f func() error) error {
	result := make(chan error, 1)
	go func() {
		err := errAbandoned
		defer func() { result <- err }()
		err = away(enter, f)
	}()
	return <-result
}

// away locks the thread for the rest of the goroutine if it cannot be moved
// back, which leaves its destruction to the runtime.
func away(enter, f func() error) error {
	runtime.LockOSThread()
	home, err := Current()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		if home.enter() == nil {
			runtime.UnlockOSThread()
		}
		home.Close()
	}()

	if err := enter(); err != nil {
		return err
	}
	return f()
}
