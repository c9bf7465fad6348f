package main

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/vm/qemu"
)

// testsWord makes this program the runner of the tests instead of process 1.
const testsWord = "tests"

// endWord makes it end the machine with the code that follows.
const endWord = "end"

// family starts the runner of the tests and buries every process until that one
// has ended. It returns the runner's exit code, or 1 without one.
func family() int {
	runner, err := syscall.ForkExec("/proc/self/exe", []string{"guest", testsWord}, &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		complain(fmt.Errorf("start runner: %w", err))
		return 1
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			complain(fmt.Errorf("wait: %w", err))
			return 1
		case pid != runner:
		case !status.Exited():
			complain(fmt.Errorf("run tests: ended by %v", status.Signal()))
			return 1
		default:
			return status.ExitStatus()
		}
	}
}

// end stops the machine with a code.
func end(code int) {
	fmt.Print(qemu.ExitLine(code))
	unix.Sync()
	if err := send(qemu.ExitPort, qemu.ExitValue(code)); err != nil {
		complain(fmt.Errorf("reach exit device: %w", err))
	}
}
