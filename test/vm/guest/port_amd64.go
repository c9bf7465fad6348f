package main

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// send writes a value to an I/O port.
func send(port uint16, value uint32) error {
	runtime.LockOSThread() // the permission is the thread's
	defer runtime.UnlockOSThread()
	const width = 4
	if err := unix.Ioperm(int(port), width, 1); err != nil {
		return err
	}
	outl(port, value)
	return nil
}

// outl is the instruction. The thread needs permission.
func outl(port uint16, value uint32)
