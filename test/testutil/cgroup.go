package testutil

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Cgroup returns the path of a fresh, empty cgroup below the root of the
// cgroup2 hierarchy. Processes still in it or in its children are killed at the
// end of the test. The root itself is never handed out: a program attached
// there would meet every process of the machine.
func Cgroup(t testing.TB) string {
	t.Helper()
	Privileged(t)
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer mounts.Close()
	root, err := cgroup2Mount(mounts)
	if err != nil {
		t.Fatal(err)
	}
	path, err := os.MkdirTemp(root, "bpfacq-test-")
	if err != nil {
		t.Fatalf("create cgroup: %v", err)
	}
	t.Cleanup(func() {
		if err := removeCgroup(path); err != nil {
			t.Errorf("remove cgroup: %v", err)
		}
	})
	return path
}

// InCgroup makes cmd start as a member of the cgroup, before its first
// instruction.
func InCgroup(t testing.TB, cmd *exec.Cmd, path string) {
	t.Helper()
	cgroup, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cgroup.Close() })
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.UseCgroupFD = true
	cmd.SysProcAttr.CgroupFD = int(cgroup.Fd())
}

// cgroup2Mount finds where the cgroup2 hierarchy is mounted, which in hybrid
// layouts is not /sys/fs/cgroup. The format is that of proc_pid_mountinfo(5).
func cgroup2Mount(mountinfo io.Reader) (string, error) {
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		mount, super, found := strings.Cut(lines.Text(), " - ")
		where, what := strings.Fields(mount), strings.Fields(super)
		if !found || len(where) < 5 || len(what) == 0 || what[0] != "cgroup2" {
			continue
		}
		// Blanks in paths are octal escapes.
		return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(where[4]), nil
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("read mounts: %w", err)
	}
	return "", errors.New("find cgroup2 hierarchy: not mounted")
}

// removeCgroup removes the cgroup with its children, whose members it kills.
func removeCgroup(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeCgroup(filepath.Join(path, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := killMembers(path); err != nil {
		return err
	}
	return unix.Rmdir(path)
}

// killMembers kills the cgroup's processes by their ids until none is left.
// Between two looks it waits for the kernel's word that the cgroup changed.
func killMembers(path string) error {
	events, err := os.Open(filepath.Join(path, "cgroup.events"))
	if err != nil {
		return err
	}
	defer events.Close()
	change := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}

	var state [256]byte
	for range 50 {
		n, err := events.ReadAt(state[:], 0)
		if err != nil && err != io.EOF {
			return err
		}
		if bytes.Contains(state[:n], []byte("populated 0")) {
			return nil
		}
		if err := killOnce(filepath.Join(path, "cgroup.procs")); err != nil {
			return err
		}
		if _, err := unix.Poll(change, 200 /* ms */); err != nil && err != unix.EINTR {
			return err
		}
	}
	return fmt.Errorf("kill members of %s: some are left", path)
}

func killOnce(procs string) error {
	members, err := os.ReadFile(procs)
	if err != nil {
		return err
	}
	for _, field := range strings.Fields(string(members)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return err
		}
		if pid == os.Getpid() {
			return errors.New("kill members: the test itself is one of them")
		}
		// A process of another pid namespace shows as 0, which to kill means
		// the caller's own process group.
		if pid <= 0 {
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	return nil
}
