package loader

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Errors of this package.
var (
	// ErrLocked says that another process owns the state in the pin folder.
	ErrLocked = errors.New("another agent owns these pins")

	// ErrNoCgroup2 says that no cgroup2 hierarchy is mounted.
	ErrNoCgroup2 = errors.New("no cgroup2 hierarchy is mounted")

	// ErrNotBPFFS says that the pin folder does not lie on a BPF file system.
	ErrNotBPFFS = errors.New("not a bpf file system")

	errNoCookie = errors.New("connect hook left no cookie on a stamped socket")
)

// Error is a condition of the host that keeps the datapath from loading, and
// what its owner can do.
type Error struct {
	Err    error
	remedy string
}

// Error returns the cause's text.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Remedy says in one sentence what the owner of the host can do.
func (e *Error) Remedy() string { return e.remedy }

func withRemedy(err error, remedy string) error {
	if err == nil {
		return nil
	}
	return &Error{err, remedy}
}

// foreignPins adds a remedy to an error of opening pins: what lies there may be
// none of this program's.
func foreignPins(action string, err error) error {
	explained := explain(action, err)
	if _, ok := errors.AsType[*Error](explained); ok {
		return explained
	}
	return withRemedy(explained, "remove the pins, if somebody has changed them: bpfacq detach --all")
}

// otherShape reports whether programs do not fit the maps that they were to use.
func otherShape(err error) bool {
	_, verifier := errors.AsType[*ebpf.VerifierError](err)
	return verifier || errors.Is(err, ebpf.ErrMapIncompatible)
}

// explain adds the remedy to an error of a bpf system call.
func explain(action string, err error) error {
	err = fmt.Errorf("%s: %w", action, err)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, fs.ErrPermission):
		return withRemedy(err, "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN; "+
			"where that is so, another program may hold the cgroup exclusively: see bpftool cgroup tree")
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return withRemedy(err, fmt.Sprintf("this is Linux %s; bpfacq needs 5.10 or newer with "+
			"CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and CONFIG_INET", release()))
	case errors.Is(err, unix.ENOMEM):
		return withRemedy(err, "free memory, or raise the memory limit of the agent's cgroup: maps are charged to it")
	}
	return err
}

func release() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "of unknown release"
	}
	return unix.ByteSliceToString(name.Release[:])
}
