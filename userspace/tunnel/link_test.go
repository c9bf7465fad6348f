package tunnel

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// watched returns a pulse with an interval of 30 s and a patience of 10 s, its
// far end, and a count of questions.
func watched(t *testing.T) (p *pulse, far net.Conn, asked *int) {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	p, asked = &pulse{Conn: near}, new(int)
	if err := p.watch(30*time.Second, 10*time.Second, func() error { *asked++; return nil }); err != nil {
		t.Fatal(err)
	}
	return p, far, asked
}

func TestSilenceIsNoticedInTime(t *testing.T) {
	rows := []struct {
		name     string
		doubted  time.Duration // when doubt is called; zero is never
		heard    time.Duration // when a byte comes; zero is never
		asked    int           // how often, but not by doubt's caller
		silentAt time.Duration
	}{
		{"from the start", 0, 0, 1, 40 * time.Second},
		{"after a byte", 0, 20 * time.Second, 1, 70 * time.Second},
		{"doubted", 5 * time.Second, 0, 0, 15 * time.Second},
		{"doubted and heard", 5 * time.Second, 14 * time.Second, 1, 55 * time.Second},
		{"heard and doubted", 14 * time.Second, 5 * time.Second, 0, 24 * time.Second},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, far, asked := watched(t)
				begin := time.Now()
				if row.doubted > 0 {
					time.AfterFunc(row.doubted, func() {
						if !p.doubt() || p.doubt() {
							t.Error("not asked once")
						}
					})
				}
				if row.heard > 0 {
					time.AfterFunc(row.heard, func() { far.Write([]byte("x")) })
				}
				_, err := io.Copy(io.Discard, p)
				if at := time.Since(begin); !errors.Is(err, errSilent) || at != row.silentAt {
					t.Errorf("error %v after %v, want %v", err, at, row.silentAt)
				}
				if *asked != row.asked {
					t.Errorf("asked %d times, want %d", *asked, row.asked)
				}
			})
		})
	}
}

func TestDeadlineThatHasMovedIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, asked := watched(t)
		p.doubt()
		// The reader comes with the deadline that doubt has replaced.
		if err := p.silence(); err != nil || *asked != 0 {
			t.Errorf("error %v, asked %d times", err, *asked)
		}
	})
}

func TestQuestionThatFailsEndsTheRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, _ := watched(t)
		p.ask = func() error { return errIdle }
		if n, err := p.Read(make([]byte, 1)); n != 0 || err != errIdle {
			t.Errorf("read %d, %v", n, err)
		}
	})
}
