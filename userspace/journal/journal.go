// Package journal writes logs to the systemd journal, each attribute as a field
// of its own, so that "journalctl BPFACQ_EDGE=…" finds what an edge did; and it
// keeps a log from saying the same thing over and over.
package journal

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"slices"

	"github.com/coreos/go-systemd/v22/journal"
)

// Send passes an entry to the journal: its MESSAGE, its PRIORITY and all other
// fields.
type Send func(message string, priority journal.Priority, fields map[string]string) error

// Options say how a Journal writes.
type Options struct {
	Level slog.Leveler // nil is info

	// Identifier is the SYSLOG_IDENTIFIER of all entries. In capitals and with
	// an underscore it begins the names of the attributes' fields.
	Identifier string

	// Fallback gets, as text, what the journal does not take.
	Fallback io.Writer

	Send Send // nil is the journal of this host
}

// Journal is a slog.Handler that sends records to the journal. An attribute
// "orig_dst" becomes, for the identifier "bpfacq", the field BPFACQ_ORIG_DST, in a
// group "flow" BPFACQ_FLOW_ORIG_DST. MESSAGE tells all of it again, as people
// read it.
type Journal struct {
	opts     Options
	fallback slog.Handler
	groups   []string // that are open
	attrs    []attr   // of all records
}

// New returns a handler of records.
func New(o Options) *Journal {
	if o.Level == nil {
		o.Level = slog.LevelInfo
	}
	if o.Send == nil {
		o.Send = journal.Send
	}
	return &Journal{opts: o, fallback: slog.NewTextHandler(o.Fallback, &slog.HandlerOptions{Level: o.Level})}
}

// Enabled implements slog.Handler.
func (j *Journal) Enabled(_ context.Context, level slog.Level) bool {
	return level >= j.opts.Level.Level()
}

// Handle implements slog.Handler. The time of a record is the journal's own.
func (j *Journal) Handle(ctx context.Context, r slog.Record) error {
	attrs := slices.Clip(j.attrs)
	r.Attrs(func(a slog.Attr) bool {
		attrs = flatten(attrs, j.groups, a)
		return true
	})
	fields := map[string]string{"SYSLOG_IDENTIFIER": j.opts.Identifier}
	maps.Insert(fields, fieldsOf(j.opts.Identifier, attrs))
	if err := j.opts.Send(message(r.Message, attrs), priority(r.Level), fields); err != nil {
		return j.fallback.Handle(ctx, r)
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (j *Journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *j
	with.fallback = j.fallback.WithAttrs(attrs)
	with.attrs = slices.Clip(j.attrs)
	for _, a := range attrs {
		with.attrs = flatten(with.attrs, j.groups, a)
	}
	return &with
}

// WithGroup implements slog.Handler.
func (j *Journal) WithGroup(name string) slog.Handler {
	if name == "" {
		return j
	}
	with := *j
	with.fallback = j.fallback.WithGroup(name)
	with.groups = append(slices.Clip(j.groups), name)
	return &with
}

// priority is what syslog(3) calls a level.
func priority(level slog.Level) journal.Priority {
	switch {
	case level >= slog.LevelError:
		return journal.PriErr
	case level >= slog.LevelWarn:
		return journal.PriWarning
	case level >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}
