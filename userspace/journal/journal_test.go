package journal

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/slogtest"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// entry is what a journal was sent.
type entry struct {
	message  string
	priority journal.Priority
	fields   map[string]string // without SYSLOG_IDENTIFIER
}

// newLogger returns a logger and the entries that it makes.
func newLogger(t *testing.T) (*slog.Logger, *[]entry) {
	t.Helper()
	var entries []entry
	h := New(Options{
		Level: slog.LevelDebug, Identifier: "bpfacq", Fallback: io.Discard,
		Send: func(message string, priority journal.Priority, fields map[string]string) error {
			if fields["SYSLOG_IDENTIFIER"] != "bpfacq" {
				t.Errorf("fields %v, want the identifier bpfacq", fields)
			}
			delete(fields, "SYSLOG_IDENTIFIER")
			entries = append(entries, entry{message, priority, fields})
			return nil
		},
	})
	return slog.New(h), &entries
}

// tree is the last entry as slogtest wants it. The journal stamps entries itself, so
// a record's time is the one thing of slog's rules that is not looked at.
func tree(t *testing.T, entries []entry) map[string]any {
	t.Helper()
	last := entries[len(entries)-1]
	msg, _, _ := strings.Cut(last.message, " ")
	root := map[string]any{slog.LevelKey: last.priority, slog.MessageKey: msg}
	if !strings.HasSuffix(t.Name(), "zero-time") {
		root[slog.TimeKey] = time.Now()
	}
	for name, value := range last.fields {
		path := strings.Split(strings.TrimPrefix(name, "BPFACQ_"), "_")
		branch := root
		for _, group := range path[:len(path)-1] {
			if _, ok := branch[group]; !ok {
				branch[group] = make(map[string]any)
			}
			branch = branch[group].(map[string]any)
		}
		branch[strings.ToLower(path[len(path)-1])] = value
	}
	return root
}

func TestHandlerKeepsTheRulesOfSlog(t *testing.T) {
	var entries *[]entry
	slogtest.Run(t, func(t *testing.T) slog.Handler {
		var log *slog.Logger
		log, entries = newLogger(t)
		return log.Handler()
	}, func(t *testing.T) map[string]any { return tree(t, *entries) })
}

func TestAttributesBecomeFields(t *testing.T) {
	log, entries := newLogger(t)
	log.With(slog.String("channel", "Private")).Warn("flow ended",
		slog.Uint64("flow", 7),
		slog.String("cause", "edge answers 403 Forbidden"),
		slog.Any("orig_dst", netip.MustParseAddrPort("192.168.11.200:80")),
		slog.Group("bytes", slog.Int("sent", 1), slog.Int("received", -2)))
	want := []entry{{
		`flow ended channel=Private flow=7 cause="edge answers 403 Forbidden" orig_dst=192.168.11.200:80 bytes.sent=1 bytes.received=-2`,
		journal.PriWarning,
		map[string]string{
			"BPFACQ_CHANNEL": "Private", "BPFACQ_FLOW": "7", "BPFACQ_CAUSE": "edge answers 403 Forbidden",
			"BPFACQ_ORIG_DST": "192.168.11.200:80", "BPFACQ_BYTES_SENT": "1", "BPFACQ_BYTES_RECEIVED": "-2",
		},
	}}
	if diff := cmp.Diff(want, *entries, cmp.AllowUnexported(entry{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLevelsBecomePriorities(t *testing.T) {
	log, entries := newLogger(t)
	for _, level := range []slog.Level{
		slog.LevelDebug - 1, slog.LevelDebug, slog.LevelInfo - 1, slog.LevelInfo, slog.LevelWarn, slog.LevelError - 1, slog.LevelError, 100,
	} {
		log.Log(t.Context(), level, "m")
	}
	var got []int
	for _, e := range *entries {
		got = append(got, int(e.priority))
	}
	if want := []int{7, 7, 6, 4, 4, 3, 3}; !slices.Equal(got, want) { // the first is below the level
		t.Errorf("priorities %v, want %v", got, want)
	}
}

// hostile is a value that says of itself what it likes.
type hostile struct{ broken bool }

func (h hostile) String() string {
	if h.broken {
		panic("no text")
	}
	return "line one\nPRIORITY=0"
}

func TestValuesOfAnyKindAreShown(t *testing.T) {
	var nothing *netip.Addr
	long := strings.Repeat("x", 1<<20)
	for _, test := range []struct {
		name    string
		value   any
		field   string
		message string
	}{
		{"text", "a b", "a b", `m k="a b"`},
		{"empty", "", "", `m k=""`},
		{"newline", hostile{}, "line one\nPRIORITY=0", `m k="line one\nPRIORITY=0"`},
		{"quotes", `say "so"=1`, `say "so"=1`, `m k="say \"so\"=1"`},
		{"long", long, long, "m k=" + long},
		{"binary", "\xff\x00", "\xff\x00", `m k="\xff\x00"`},
		{"duration", 1500 * time.Millisecond, "1.5s", "m k=1.5s"},
		{"time", time.Date(2026, 3, 1, 12, 0, 0, 1, time.UTC), "2026-03-01T12:00:00.000000001Z", "m k=2026-03-01T12:00:00.000000001Z"},
		{"fault", errors.New("no route"), "no route", `m k="no route"`},
		{"struct", struct{ A, B int }{1, 2}, "{A:1 B:2}", `m k="{A:1 B:2}"`},
		{"nil", nil, "<nil>", "m k=<nil>"},
		{"nil pointer", nothing, "<nil>", "m k=<nil>"},
		{"panic", hostile{broken: true}, "%!v(PANIC=String method: no text)", `m k="%!v(PANIC=String method: no text)"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			log, entries := newLogger(t)
			log.Info("m", slog.Any("k", test.value))
			want := []entry{{test.message, journal.PriInfo, map[string]string{"BPFACQ_K": test.field}}}
			if diff := cmp.Diff(want, *entries, cmp.AllowUnexported(entry{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestFieldNamesAreThoseThatTheJournalTakes(t *testing.T) {
	log, entries := newLogger(t)
	long := strings.Repeat("long", 20)
	log.Info("m", slog.Int("_private", 1), slog.Int("9", 2), slog.Int("Grüße!", 3), slog.Int("a.b-c", 4), slog.Int(long, 5))
	got := slices.Sorted(maps.Keys((*entries)[0].fields))
	want := []string{
		"BPFACQ_9", "BPFACQ_A_B_C", "BPFACQ_GR__E_", "BPFACQ_" + strings.ToUpper(long)[:57], "BPFACQ__PRIVATE",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLoggersDoNotShareAttributes(t *testing.T) {
	log, entries := newLogger(t)
	parent := log.With(slog.Int("a", 1), slog.Int("b", 2), slog.Int("c", 3)).WithGroup("g").WithGroup("h").WithGroup("i")
	one, two := parent.With(slog.Int("d", 4)), parent.With(slog.Int("d", 5))
	one.WithGroup("one").Info("m", slog.Int("e", 1))
	two.WithGroup("two").Info("m", slog.Int("e", 2))
	var got []string
	for _, e := range *entries {
		got = append(got, e.message)
	}
	if want := []string{"m a=1 b=2 c=3 g.h.i.d=4 g.h.i.one.e=1", "m a=1 b=2 c=3 g.h.i.d=5 g.h.i.two.e=2"}; !slices.Equal(got, want) {
		t.Errorf("messages %q, want %q", got, want)
	}
}

func TestWithoutAJournalTheFallbackIsWritten(t *testing.T) {
	var stderr bytes.Buffer
	gone := errors.New("no such socket")
	log := slog.New(New(Options{
		Identifier: "bpfacq", Fallback: &stderr,
		Send: func(string, journal.Priority, map[string]string) error { return gone },
	}))
	log.Debug("below the level")
	log.With(slog.String("channel", "Private")).WithGroup("g").Error("edge not reached", slog.Int("tries", 2))
	_, got, _ := strings.Cut(stderr.String(), " ") // after the time
	if want := "level=ERROR msg=\"edge not reached\" channel=Private g.tries=2\n"; got != want {
		t.Errorf("fallback has %q, want %q", got, want)
	}
	gone = nil
	log.Info("again there")
	if n := strings.Count(stderr.String(), "\n"); n != 1 {
		t.Errorf("fallback has %d lines, want those that the journal did not take: %s", n, &stderr)
	}
}
