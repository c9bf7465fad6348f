package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/vm/plan"
)

// tests runs the plan's tests and returns 0 if all of them passed, 1 otherwise.
// The children of this process are its own: process 1 would bury them before
// package exec has seen how they ended.
func tests() int {
	if err := runPlan(); err != nil {
		complain(err)
		return 1
	}
	return 0
}

func runPlan() error {
	todo, err := plan.Read(keptPlan)
	if err != nil {
		return err
	}
	output, err := openOutput()
	if err != nil {
		return err
	}
	defer output.Close()
	if err := raiseLoopback(); err != nil {
		return err
	}
	before, err := survey(todo.Source)
	if err != nil {
		return err
	}
	failed := 0
	for _, test := range todo.Tests {
		cmd := exec.Command(test.Command[0], test.Command[1:]...)
		cmd.Dir = filepath.Join(todo.Source, test.Package)
		cmd.Env = todo.Environment
		cmd.Stdout, cmd.Stderr = output, output
		if err := cmd.Run(); err != nil {
			failed++
		}
	}
	if todo.Returns != "" {
		device, err := await(os.DirFS("/sys"), todo.Returns)
		if err != nil {
			return err
		}
		if err := before.giveBack(todo.Source, device); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("run tests: %d packages of %d have not passed", failed, len(todo.Tests))
	}
	return nil
}

// openOutput opens the second serial port as one that passes on what it is given
// as it is.
func openOutput() (*os.File, error) {
	output, err := os.OpenFile("/dev/ttyS1", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	settings, err := unix.IoctlGetTermios(int(output.Fd()), unix.TCGETS)
	if err == nil {
		settings.Oflag &^= unix.OPOST
		err = unix.IoctlSetTermios(int(output.Fd()), unix.TCSETS, settings)
	}
	if err != nil {
		output.Close()
		return nil, fmt.Errorf("set up %s: %w", output.Name(), err)
	}
	return output, nil
}

func raiseLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback link: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("raise loopback link: %w", err)
	}
	return nil
}
