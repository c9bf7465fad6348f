// Package bpffs makes BPF file systems that belong to one process.
package bpffs

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Private makes an empty BPF file system that is mounted nowhere: it hangs on
// the file that is returned. It shows in no mount table, and it goes, with all
// that is pinned in it, when the file is closed or the process ends, however
// that happens. The caller closes the file.
//
// The file's Name is a path that leads there through /proc, for other processes
// of the same user, too. It needs CAP_SYS_ADMIN.
func Private() (*os.File, error) {
	root, err := mount()
	if err != nil {
		return nil, fmt.Errorf("make bpf file system: %w", err)
	}
	return os.NewFile(uintptr(root), fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), root)), nil
}

func mount() (int, error) {
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
