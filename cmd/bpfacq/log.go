package main

import (
	"log/slog"

	systemd "github.com/coreos/go-systemd/v22/journal"

	"github.com/bpfacq/bpfacq/userspace/journal"
)

// identifier is the name under which logs stand in the journal.
const identifier = "bpfacq"

// formatAuto is the format of a log that goes to where it is read best.
const formatAuto = "auto"

// logger returns a log in one of the configuration's formats. The log wants to be
// flushed when it is not used any more.
func (e *env) logger(format string, level slog.Leveler) (log *slog.Logger, flush func()) {
	if format == formatAuto && e.journaled {
		format = "journal"
	}
	var h slog.Handler
	switch format {
	case "journal":
		h = journal.New(journal.Options{Level: level, Identifier: identifier, Fallback: e.stderr})
	case "json":
		h = slog.NewJSONHandler(e.stderr, &slog.HandlerOptions{Level: level})
	default:
		h = slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: level})
	}
	h, flush = journal.Limit(h)
	return slog.New(h), flush
}

// journaled reports whether standard error leads to the journal: systemd says so
// in the environment, and what it says is compared, because a process with another
// standard error may have inherited it.
func journaled() bool {
	is, err := systemd.StderrIsJournalStream()
	return is && err == nil
}
