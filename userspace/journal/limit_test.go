package journal

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// limitedLog is a limited log and the lines that it has so far, without their times.
type limitedLog struct {
	*slog.Logger
	flush func()
	out   lockedBuffer
}

// lockedBuffer is written by timers, too.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// take empties the buffer.
func (b *lockedBuffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.text.Reset()
	return b.text.String()
}

func newLimitedLog() *limitedLog {
	l := new(limitedLog)
	var h slog.Handler
	h, l.flush = Limit(slog.NewTextHandler(&l.out, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	l.Logger = slog.New(h)
	return l
}

// counts tells how often each line was written since it was last asked.
func (l *limitedLog) counts() map[string]int {
	synctest.Wait()
	counts := make(map[string]int)
	for line := range strings.Lines(l.out.take()) {
		counts[strings.TrimSpace(line)]++
	}
	return counts
}

func (l *limitedLog) expect(t *testing.T, when string, want map[string]int) {
	t.Helper()
	if diff := cmp.Diff(want, l.counts()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

func TestAFloodIsCutAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimitedLog()
		for range 100 {
			l.Warn("flow ended", slog.String("edge", "a:443"), slog.Int("status", 403))
		}
		l.expect(t, "at once", map[string]int{`msg="flow ended" edge=a:443 status=403`: 10})
		time.Sleep(59 * time.Second)
		l.expect(t, "within the window", map[string]int{})
		time.Sleep(2 * time.Second)
		l.expect(t, "after it", map[string]int{`msg="flow ended" edge=a:443 status=403 suppressed=90`: 1})

		for range 10 {
			l.Warn("flow ended", slog.String("edge", "a:443"), slog.Int("status", 403))
		}
		l.expect(t, "in the next window", map[string]int{`msg="flow ended" edge=a:443 status=403`: 10})
		time.Sleep(time.Hour)
		l.expect(t, "after a window that was not full", map[string]int{})
	})
}

func TestOnlyWhatSaysTheSameIsCountedTogether(t *testing.T) {
	for _, test := range []struct {
		name string
		log  func(l *slog.Logger, i int)
		want int // lines
	}{
		{"flow", func(l *slog.Logger, i int) { l.Warn("m", slog.Int("flow", i)) }, 10},
		{"port in a cause", func(l *slog.Logger, i int) {
			l.Warn("m", slog.Any("error", fmt.Errorf("read tcp 192.0.2.1:%d->192.0.2.2:443: reset", 40000+i)))
		}, 10},
		{"edge", func(l *slog.Logger, i int) { l.Warn("m", slog.String("edge", fmt.Sprint(i))) }, 30},
		{"edge of the logger", func(l *slog.Logger, i int) { l.With(slog.String("edge", fmt.Sprint(i))).Warn("m") }, 30},
		{"same edge of the logger", func(l *slog.Logger, _ int) { l.With(slog.String("edge", "a")).Warn("m") }, 10},
		{"status", func(l *slog.Logger, i int) { l.Warn("m", slog.Int("status", i)) }, 30},
		{"cause", func(l *slog.Logger, i int) { l.Warn("m", slog.String("cause", strings.Repeat("x", i))) }, 30},
		{"message", func(l *slog.Logger, i int) { l.Warn(fmt.Sprint(i)) }, 30},
		{"level", func(l *slog.Logger, i int) { l.Log(t.Context(), slog.Level(i), "m") }, 30},
		{"below info", func(l *slog.Logger, _ int) { l.Debug("m") }, 30},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLimitedLog()
				for i := range 30 {
					test.log(l.Logger, i)
				}
				lines := 0
				for _, n := range l.counts() {
					lines += n
				}
				if lines != test.want {
					t.Errorf("%d lines, want %d", lines, test.want)
				}
				l.flush()
			})
		})
	}
}

func TestFlushWritesWhatIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimitedLog()
		grouped := l.WithGroup("g")
		for range 12 {
			grouped.Error("m", slog.Any("error", errors.New("e")))
		}
		l.counts()
		l.flush()
		l.expect(t, "after the flush", map[string]int{"msg=m g.error=e g.suppressed=2": 1})
		l.flush()
		time.Sleep(time.Hour)
		l.expect(t, "after the window", map[string]int{})
	})
}

// Whoever makes up new causes all the time fills the log and not the memory.
func TestManyKindsAreTakenForOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimitedLog()
		for i := range limitKinds + 30 {
			l.Warn("m", slog.String("edge", fmt.Sprint(i)))
		}
		if n := len(l.counts()); n != limitKinds+limitBurst {
			t.Errorf("%d lines, want %d", n, limitKinds+limitBurst)
		}
		l.flush()
		l.expect(t, "after the flush", map[string]int{fmt.Sprintf("msg=m edge=%d suppressed=20", limitKinds+29): 1})
	})
}

func TestLimitedLogKeepsTheRulesOfSlog(t *testing.T) {
	var entries *[]entry
	slogtest.Run(t, func(t *testing.T) slog.Handler {
		var log *slog.Logger
		log, entries = newLogger(t)
		limited, flush := Limit(log.Handler())
		t.Cleanup(flush)
		return limited
	}, func(t *testing.T) map[string]any { return tree(t, *entries) })
}
