package main

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
)

// drive returns the device of the drive with a serial number, or false while the
// kernel has not found it. Numbers in the names of devices say nothing: kernels
// look at all drives at once, and count them as they answer.
func drive(sys fs.FS, serial string) (device string, ok bool) {
	serials, err := fs.Glob(sys, "block/nvme*/device/serial")
	if err != nil {
		return "", false
	}
	for _, name := range serials {
		text, err := fs.ReadFile(sys, name)
		if err == nil && strings.TrimSpace(string(text)) == serial {
			return "/dev/" + path.Base(path.Dir(path.Dir(name))), true
		}
	}
	return "", false
}

// await returns the device of a drive once the kernel has found it: it looks
// while process 1 runs already.
func await(sys fs.FS, serial string) (device string, err error) {
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	limit := time.After(time.Minute)
	for {
		if device, ok := drive(sys, serial); ok {
			return device, nil
		}
		select {
		case <-look.C:
		case <-limit:
			return "", fmt.Errorf("wait for drive %s: the kernel has not found it", serial)
		}
	}
}
