package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/control"
)

func TestErrorsSayWhatToDo(t *testing.T) {
	unreachable := func(errno syscall.Errno) error { return &control.UnreachableError{Socket: "/s", Err: errno} }
	for _, test := range []struct {
		name   string
		err    error
		status int
		want   string
	}{
		{"nothing", nil, 0, ""},
		{"anything", errors.New("read x"), 1, "bpfacq: error: read x\n"},
		{"several", errors.Join(errors.New("read x"), errors.New("read y")), 1, "bpfacq: error: read x\nbpfacq: error: read y\n"},
		{"usage", &usageError{"unknown x", "see y"}, 2, "bpfacq: error: unknown x\nbpfacq: hint: see y\n"},
		{"usage without hint", &usageError{"unknown x", ""}, 2, "bpfacq: error: unknown x\n"},
		{"advice", fmt.Errorf("start: %w", &adviceError{errors.New("read x"), "do y"}), 1, "bpfacq: error: start: read x\nbpfacq: hint: do y\n"},
		{"no agent", unreachable(syscall.ENOENT), 1,
			"bpfacq: error: reach the agent at /s: no such file or directory\nbpfacq: hint: is it running? systemctl status bpfacq, or pass --socket\n"},
		{"dead agent", unreachable(syscall.ECONNREFUSED), 1,
			"bpfacq: error: reach the agent at /s: connection refused\nbpfacq: hint: is it running? systemctl status bpfacq, or pass --socket\n"},
		{"forbidden", unreachable(syscall.EACCES), 1,
			"bpfacq: error: reach the agent at /s: permission denied\nbpfacq: hint: try again as root, with sudo\n"},
		{"busy", fmt.Errorf("ask the agent: %w", context.DeadlineExceeded), 1,
			"bpfacq: error: ask the agent: context deadline exceeded\nbpfacq: hint: the agent is busy or hangs: see its log, journalctl -u bpfacq\n"},
		{"no policy", control.ErrNoPolicy, 1, "bpfacq: error: no policy is loaded\nbpfacq: hint: load one: bpfacq policy apply FILE\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stderr bytes.Buffer
			e := &env{stderr: &stderr}
			if status := e.report(test.err); status != test.status || stderr.String() != test.want {
				t.Errorf("report = %d %q, want %d %q", status, stderr.String(), test.status, test.want)
			}
		})
	}
}

func TestOnlyAMissingAgentIsNotRunning(t *testing.T) {
	for errno, want := range map[syscall.Errno]bool{syscall.ENOENT: true, syscall.ECONNREFUSED: true, syscall.EACCES: false} {
		if got := notRunning(&control.UnreachableError{Err: errno}); got != want {
			t.Errorf("notRunning of %v = %v, want %v", errno, got, want)
		}
	}
	if notRunning(syscall.ENOENT) {
		t.Error("a missing file is taken for a missing agent")
	}
}
