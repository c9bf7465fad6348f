package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/vm/plan"
)

// keptPlan is where the plan is after the switch to the other root.
const keptPlan = "/run/plan.json"

// mount is one call of mount(2).
type mount struct {
	kind, target, options string
}

// boot does what an initramfs and a process 1 do, as far as tests notice.
func boot() error {
	if err := mountAll("/", []mount{{"devtmpfs", "dev", ""}, {"proc", "proc", ""}, {"sysfs", "sys", ""}}); err != nil {
		return err
	}
	if err := openConsole(); err != nil {
		return err
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	fmt.Println(plan.BootLine + unix.ByteSliceToString(name.Release[:]))

	todo, err := plan.Read(plan.File)
	if err != nil {
		return err
	}
	for _, module := range todo.Modules {
		if err := insert(module); err != nil {
			return err
		}
	}
	if err := switchRoot(todo); err != nil {
		return err
	}
	text, err := todo.Marshal()
	if err != nil {
		return err
	}
	return os.WriteFile(keptPlan, text, 0o600)
}

// openConsole makes the first serial port what this process prints to. The
// kernel gives a process 1 of an initramfs without /dev/console nothing.
func openConsole() error {
	console, err := unix.Open("/dev/ttyS0", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("open console: %w", err)
	}
	for fd := range 3 {
		if err := unix.Dup3(console, fd, 0); err != nil && err != unix.EINVAL { // it is fd already
			return fmt.Errorf("open console: %w", err)
		}
	}
	return nil
}

func insert(module string) error {
	file, err := os.Open(module)
	if err != nil {
		return err
	}
	defer file.Close()
	err = unix.FinitModule(int(file.Fd()), "", 0)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", filepath.Base(module), err)
	}
	return nil
}

// switchRoot makes the drive's file system the root, with everything in it that
// programs expect of a running system.
func switchRoot(todo plan.Plan) error {
	const root = "/root"
	device, err := await(os.DirFS("/sys"), todo.Root)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(device, root, "ext4", unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	err = mountAll(root, []mount{
		{"devtmpfs", "dev", ""}, {"devpts", "dev/pts", "ptmxmode=0666"}, {"tmpfs", "dev/shm", "mode=1777"},
		{"proc", "proc", ""}, {"sysfs", "sys", ""}, {"cgroup2", "sys/fs/cgroup", ""}, {"bpf", "sys/fs/bpf", "mode=0700"},
		{"tracefs", "sys/kernel/tracing", ""}, {"securityfs", "sys/kernel/security", ""},
		{"tmpfs", "run", "mode=0755"}, {"tmpfs", "tmp", "mode=1777"},
	})
	if err != nil {
		return err
	}
	for name, target := range map[string]string{"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"} {
		if err := os.Symlink("/proc/self/fd"+target, filepath.Join(root, "dev", name)); err != nil {
			return err
		}
	}
	source := filepath.Join(root, todo.Source)
	if err := os.MkdirAll(source, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(todo.Source, source, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", todo.Source, err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/hosts"), []byte("127.0.0.1 localhost\n::1 localhost\n"), 0o644); err != nil {
		return err
	}
	return enter(root)
}

// enter makes a mounted folder the root. The initramfs cannot be left by
// pivot_root(2).
func enter(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	return os.Chdir("/")
}

func mountAll(root string, mounts []mount) error {
	for _, m := range mounts {
		target := filepath.Join(root, m.target)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		flags := uintptr(0)
		if !strings.HasPrefix(m.target, "dev") && m.kind != "tmpfs" {
			flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
		}
		if err := unix.Mount(m.kind, target, m.kind, flags, m.options); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s on %s: %w", m.kind, target, err)
		}
	}
	return nil
}
