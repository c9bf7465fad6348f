package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/bpfacq/bpfacq/test/vm/kernel"
	"github.com/bpfacq/bpfacq/test/vm/qemu"
)

const (
	memory  = 1024 // MiB
	timeout = 30 * time.Minute
)

// result is how the test on one kernel ended.
type result struct {
	kernel kernel.Kernel
	took   time.Duration
	code   int   // of the test: 0 if all passed
	err    error // of the machine: then code means nothing
}

// test runs the test on a kernel.
func (r *run) test(ctx context.Context, k kernel.Kernel, show io.Writer) (tested result) {
	tested.err = qemu.Insist(ctx, show, func() (err error) {
		begun := time.Now()
		tested = result{kernel: k}
		tested.code, err = r.boot(ctx, k, show)
		tested.took = time.Since(begun)
		return err
	})
	return tested
}

// boot runs one machine.
func (r *run) boot(ctx context.Context, k kernel.Kernel, show io.Writer) (code int, err error) {
	folder := filepath.Join(r.Folder, "run", "systemd-"+k.Series)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return 0, err
	}
	disk := filepath.Join(folder, "disk")
	defer func() { err = errors.Join(err, os.RemoveAll(disk)) }()
	if err := r.writeDisk(ctx, disk, k.Modules); err != nil {
		return 0, err
	}
	console, err := os.Create(filepath.Join(folder, "console"))
	if err != nil {
		return 0, err
	}
	defer console.Close()
	log, err := os.Create(filepath.Join(folder, "output"))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	return qemu.Machine{
		Kernel: k.Image,
		// A kernel that panics must not start again as if the test had asked
		// for it. An emulator that waits for a processor looks like a lockup.
		Append:  "root=/dev/nvme0n1 rootfstype=ext4 rw systemd.show_status=no panic=0 nosoftlockup",
		Memory:  memory,
		Drives:  []qemu.Drive{{Path: disk}},
		Reboots: true,
		Console: console,
		Output:  io.MultiWriter(log, show),
		Timeout: timeout,
	}.Run(ctx)
}

// writeDisk makes a machine's disk: the image, and after it the parts as a tar.
// Kernels look for disks all at once and number them as they come, so that with
// two of them none could say which is the root.
func (r *run) writeDisk(ctx context.Context, path string, modules []string) error {
	said, err := exec.CommandContext(ctx, "cp", "--sparse=always", "--reflink=auto", r.image, path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copy image: %w\n%s", err, said)
	}
	disk, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer disk.Close()
	if _, err := disk.Seek(imageSize, io.SeekStart); err != nil {
		return err
	}
	return errors.Join(r.parts.write(disk, modules), disk.Close())
}
