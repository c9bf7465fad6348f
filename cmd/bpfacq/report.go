package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/bpfacq/bpfacq/userspace/control"
)

// What people read on standard error is made here and nowhere else:
//
//	bpfacq: error: what went wrong, in lower case, without a full stop
//	bpfacq: warning: what is odd, though the command did what it was told
//	bpfacq: hint: what to do or to type
//
// Every problem has a line of its own. Hints come last.

// The exit statuses.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// usageError is a mistake in the command line.
type usageError struct {
	text, hint string
}

func (e *usageError) Error() string { return e.text }

// Remedy says what to type instead.
func (e *usageError) Remedy() string { return e.hint }

// adviceError is an error with a remedy that only the command knows.
type adviceError struct {
	error
	hint string
}

func (e *adviceError) Unwrap() error  { return e.error }
func (e *adviceError) Remedy() string { return e.hint }

// advised is an error that says what to do about it.
type advised interface {
	error
	Remedy() string
}

// report prints an error with its hint and returns the exit status.
func (e *env) report(err error) int {
	if err == nil {
		return exitOK
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		e.say(journal.PriErr, "error: "+line)
	}
	if hint := remedy(err); hint != "" {
		e.say(journal.PriNotice, "hint: "+hint)
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	return exitFailure
}

func (e *env) warn(text string) { e.say(journal.PriWarning, "warning: "+text) }

// say writes a line. In the journal it has its priority: sd-daemon(3).
func (e *env) say(priority journal.Priority, line string) {
	prefix := ""
	if e.journaled {
		prefix = fmt.Sprintf("<%d>", priority)
	}
	fmt.Fprintf(e.stderr, "%sbpfacq: %s\n", prefix, line)
}

func remedy(err error) string {
	if e, ok := errors.AsType[advised](err); ok {
		return e.Remedy()
	}
	_, unreachable := errors.AsType[*control.UnreachableError](err)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "try again as root, with sudo"
	case unreachable:
		return "is it running? systemctl status bpfacq, or pass --socket"
	case errors.Is(err, control.ErrNoPolicy):
		return "load one: bpfacq policy apply FILE"
	case errors.Is(err, context.DeadlineExceeded):
		return "the agent is busy or hangs: see its log, journalctl -u bpfacq"
	}
	return ""
}

// notRunning reports whether err says that no agent is there, as opposed to
// one that may not be asked.
func notRunning(err error) bool {
	e, ok := errors.AsType[*control.UnreachableError](err)
	return ok && (errors.Is(e, fs.ErrNotExist) || errors.Is(e, syscall.ECONNREFUSED))
}
