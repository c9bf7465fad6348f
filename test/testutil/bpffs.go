package testutil

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// BPFFS returns an empty folder of a BPF filesystem that is the test's own.
//
// The filesystem is mounted nowhere: it hangs on a file descriptor of the test
// process, and the path leads there through /proc. So it shows in no mount
// table, other processes of the same user reach it all the same, and it goes
// with the process however that ends. The folder is not the filesystem's root,
// which holds maps.debug and progs.debug.
func BPFFS(t testing.TB) string {
	t.Helper()
	Privileged(t)
	mount, err := mountBPFFS()
	if err != nil {
		t.Fatalf("mount bpffs: %v", err)
	}
	t.Cleanup(func() { unix.Close(mount) })

	path := fmt.Sprintf("/proc/%d/fd/%d/test", os.Getpid(), mount)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func mountBPFFS() (int, error) {
	context, err := unix.Fsopen("bpf", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(context)
	if err := unix.FsconfigCreate(context); err != nil {
		return -1, err
	}
	return unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, 0)
}
