package journal

import (
	"context"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"
	"unicode"
)

// How often a log may say the same: a burst, and then once a window, with how
// often it was meant to be said.
const (
	limitWindow = time.Minute
	limitBurst  = 10

	// limitKinds bounds what is remembered. Records of more kinds than that in
	// one window are taken for one kind.
	limitKinds = 1000
)

// Limit keeps a flood of records that say the same from a log: those that have
// the same message, level, edge, channel, state and status, and the same cause but
// for its digits, which are ports and the like. Of what exceeds the burst, the last
// is written when its window ends, with the number of all in "suppressed". Records
// below info are never limited.
//
// Flush writes what is held back now. A log that is not used any more wants one.
func Limit(to slog.Handler) (h slog.Handler, flush func()) {
	l := &limiter{kinds: make(map[string]*window)}
	return &limited{to: to, limiter: l}, l.flush
}

// limited asks the limiter, which all handlers that derive from one share.
type limited struct {
	to      slog.Handler
	limiter *limiter
	kind    string // of the attributes of all records
}

// Enabled implements slog.Handler.
func (h *limited) Enabled(ctx context.Context, level slog.Level) bool {
	return h.to.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *limited) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo {
		kind := r.Level.String() + " " + r.Message + h.kind
		r.Attrs(func(a slog.Attr) bool {
			kind += kindOf(a)
			return true
		})
		if !h.limiter.pass(kind, h.to, r) {
			return nil
		}
	}
	return h.to.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *limited) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := &limited{h.to.WithAttrs(attrs), h.limiter, h.kind}
	for _, a := range attrs {
		with.kind += kindOf(a)
	}
	return with
}

// WithGroup implements slog.Handler.
func (h *limited) WithGroup(name string) slog.Handler {
	return &limited{h.to.WithGroup(name), h.limiter, h.kind}
}

// kindOf is what an attribute adds to the kind of its record.
func kindOf(a slog.Attr) string {
	switch a.Key {
	case "edge", "channel", "state", "status":
		return " " + a.Value.String()
	case "cause", "error":
		return " " + strings.Map(func(r rune) rune {
			if unicode.IsDigit(r) {
				return -1
			}
			return r
		}, a.Value.String())
	}
	return ""
}

// limiter remembers what was written of late.
type limiter struct {
	mu    sync.Mutex
	kinds map[string]*window
}

// window is the time in which records of one kind count together.
type window struct {
	end        *time.Timer
	passed     int
	suppressed int
	last       slog.Record // that was suppressed, and where it was meant to go
	to         slog.Handler
}

// pass reports whether a record may be written now.
func (l *limiter) pass(kind string, to slog.Handler, r slog.Record) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kinds[kind] == nil && len(l.kinds) >= limitKinds {
		kind = ""
	}
	w := l.kinds[kind]
	if w == nil {
		w = new(window)
		w.end = time.AfterFunc(limitWindow, func() { l.end(kind, w) })
		l.kinds[kind] = w
	}
	if w.passed < limitBurst {
		w.passed++
		return true
	}
	w.suppressed++
	w.last, w.to = r.Clone(), to
	return false
}

// end ends a window, once, and writes what it has held back.
func (l *limiter) end(kind string, w *window) {
	l.mu.Lock()
	open := l.kinds[kind] == w
	if open {
		delete(l.kinds, kind)
	}
	l.mu.Unlock()
	if open {
		w.end.Stop()
	}
	if open && w.suppressed > 0 {
		w.last.AddAttrs(slog.Int("suppressed", w.suppressed))
		// Nobody is left to be told that this cannot be written.
		_ = w.to.Handle(context.Background(), w.last)
	}
}

// flush ends all windows.
func (l *limiter) flush() {
	l.mu.Lock()
	open := maps.Clone(l.kinds)
	l.mu.Unlock()
	for kind, w := range open {
		l.end(kind, w)
	}
}
