package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// meals starts a watchdog with a patience of 8 s in a bubble, and returns after how
// many seconds each it was fed in a time.
func meals(t *testing.T, howLong time.Duration, alive func(context.Context) error) []float64 {
	t.Helper()
	begun := time.Now()
	var fed []float64
	w := &watchdog{
		patience: 8 * time.Second,
		alive:    alive,
		feed:     func() { fed = append(fed, time.Since(begun).Seconds()) },
		log:      slog.New(slog.DiscardHandler),
	}
	ctx, cancel := context.WithTimeout(t.Context(), howLong)
	defer cancel()
	if err := w.run(ctx); err != nil {
		t.Error(err)
	}
	return fed
}

func TestWatchdogIsFedTwiceInItsPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := meals(t, 17*time.Second, func(context.Context) error { return nil })
		if want := []float64{4, 8, 12, 16}; !slices.Equal(got, want) {
			t.Errorf("fed after %v s, want %v", got, want)
		}
	})
}

// The time that a busy agent takes to answer is not added to the pause.
func TestSlowAgentIsFedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := meals(t, 17*time.Second, func(context.Context) error {
			time.Sleep(1500 * time.Millisecond)
			return nil
		})
		if want := []float64{5.5, 9.5, 13.5}; !slices.Equal(got, want) {
			t.Errorf("fed after %v s, want %v", got, want)
		}
	})
}

func TestHungAgentIsNotFed(t *testing.T) {
	for _, test := range []struct {
		name  string
		alive func(context.Context) error
	}{
		{"as long as it is asked", func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}},
		{"for ever, at something that knows no limit", func(context.Context) error {
			<-time.After(time.Hour)
			return nil
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if got := meals(t, time.Minute, test.alive); len(got) != 0 {
					t.Errorf("fed after %v s, want never", got)
				}
			})
		})
	}
}

// A process that was stopped for a while finds its lease lapsed before the heartbeat
// has had its turn.
func TestRecoveredAgentIsFedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := 0
		got := meals(t, 14*time.Second, func(context.Context) error {
			if looks++; looks == 2 {
				return errLapsed
			}
			return nil
		})
		if want := []float64{4, 9, 13}; !slices.Equal(got, want) {
			t.Errorf("fed after %v s, want %v", got, want)
		}
	})
}

func TestStopIsNoComplaintOfTheWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := meals(t, 5*time.Second, func(ctx context.Context) error {
			<-ctx.Done()
			return errors.Join(errLapsed, ctx.Err())
		})
		if len(got) != 0 {
			t.Errorf("fed after %v s, want never", got)
		}
	})
}

func TestOnlySilenceIsTakenForAHang(t *testing.T) {
	folder := t.TempDir()
	listen := func(name string) (string, net.Listener) {
		path := filepath.Join(folder, name)
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return path, l
	}
	silent, _ := listen("silent") // connections wait for an accept that does not come
	broken, l := listen("broken")
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	serving.Go(func() {
		if conn, err := l.Accept(); err == nil {
			conn.Close()
		}
	})
	for _, test := range []struct {
		name, socket string
		hangs        bool
	}{
		{"silent", silent, true},
		{"broken", broken, false},
		{"removed", filepath.Join(folder, "removed"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			limit := time.Minute
			if test.hangs {
				limit = 50 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			if err := answers(ctx, test.socket); (err != nil) != test.hangs {
				t.Errorf("got %v, want an error: %t", err, test.hangs)
			}
		})
	}
}
