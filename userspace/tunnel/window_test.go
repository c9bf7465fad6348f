package tunnel

import (
	"encoding/binary"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

func TestWindowGrowsOnlyWhereItLimits(t *testing.T) {
	rows := []struct {
		name      string
		rtt, took time.Duration // to read half a window
		size      int
		budget    int
		raise     int
	}{
		{"within two round trips", 50 * time.Millisecond, 99 * time.Millisecond, 64 << 10, 1 << 20, 32<<10 + 64<<10},
		{"slower", 50 * time.Millisecond, 100 * time.Millisecond, 64 << 10, 1 << 20, 32 << 10},
		{"round trip shorter than a busy host needs", time.Microsecond, 19 * time.Millisecond, 64 << 10, 1 << 20, 32<<10 + 64<<10},
		{"budget nearly used", 50 * time.Millisecond, 0, 64 << 10, 100, 32<<10 + 100},
		{"budget used", 50 * time.Millisecond, 0, 64 << 10, 0, 32 << 10},
		{"near the maximum", 50 * time.Millisecond, 0, maxStreamWindow - 10, 1 << 20, maxStreamWindow/2 - 5 + 10},
		{"at the maximum", 50 * time.Millisecond, 0, maxStreamWindow, 1 << 20, maxStreamWindow / 2},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := window{size: row.size, left: row.size / 2, filled: time.Now()}
				budget := row.budget
				time.Sleep(row.took)
				half := row.size / 2
				if raise := w.read(half-1, row.rtt, &budget); raise != 0 {
					t.Errorf("raised by %d for less than half", raise)
				}
				if raise := w.read(1, row.rtt, &budget); raise != row.raise {
					t.Errorf("raised by %d, want %d", raise, row.raise)
				}
				if grown := row.raise - half; w.size != row.size+grown || budget != row.budget-grown || w.owed != 0 {
					t.Errorf("window %+v, budget %d", w, budget)
				}
			})
		})
	}
}

func TestCalmIsLostByRateNotByCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c calm
		for range 10 * maxIdleFrames {
			time.Sleep(time.Second/maxIdleFrames + time.Microsecond)
			if c.lost() {
				t.Fatal("lost at a bearable rate")
			}
		}
		for range 2 * maxIdleFrames {
			if c.lost() {
				return
			}
		}
		t.Error("kept in a flood")
	})
}

// raised returns by how much the tunnel has raised the window of a stream, or
// of the connection for 0.
func (p *peer) raised(id uint32) (sum int) {
	for {
		f, ok := p.next(http2.FrameWindowUpdate)
		if !ok {
			return sum
		}
		if f.StreamID == id {
			sum += int(binary.BigEndian.Uint32(f.payload))
		}
	}
}

// writing writes b in the background; the result is there when it is done.
func TestUnreadBytesHoldTheEdgeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, s := open(t)
		sendData(p, 1, streamWindow)
		if n := p.raised(1); n != 0 {
			t.Fatalf("window raised by %d before a read", n)
		}
		b := make([]byte, streamWindow)
		if _, err := io.ReadFull(s, b[:streamWindow/2-1]); err != nil {
			t.Fatal(err)
		}
		if n := p.raised(1); n != 0 {
			t.Fatalf("window raised by %d for less than half of it", n)
		}
		if _, err := io.ReadFull(s, b[:1]); err != nil {
			t.Fatal(err)
		}
		if n := p.raised(1); n != streamWindow/2 {
			t.Errorf("window raised by %d, want %d", n, streamWindow/2)
		}
	})
}

func TestPaddingIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, s := open(t)
		for range 4 * streamWindow / 256 { // of which one byte each is data
			p.WriteDataPadded(1, false, []byte("x"), make([]byte, 254))
			if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if n := p.raised(1); n < 3*streamWindow {
			t.Errorf("window raised by %d for %d bytes", n, 4*streamWindow)
		}
	})
}

func TestUnreadStreamsDoNotHoldOthersBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun, p, _ := open(t, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1000})
		sent, budget := 0, connWindow
		for id := uint32(1); sent < 2*connWindow; id += 2 {
			sendData(p, id, streamWindow)
			sent += streamWindow
			budget += p.raised(0) - streamWindow
			if budget < streamWindow {
				t.Fatalf("connection's window is %d after %d bytes", budget, sent)
			}
			start(t.Context(), tun, "next.example:1")
			p.expect(http2.FrameHeaders)
			p.answer(id+2, false, "200")
		}
		p.expectNone(http2.FrameGoAway)
	})
}

func TestWindowGrowsWithUseWithinItsBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun, p, s := open(t)
		streams := []Stream{s}
		for id := uint32(3); len(streams) < 8; id += 2 {
			a := start(t.Context(), tun, "next.example:1")
			p.expect(http2.FrameHeaders)
			p.answer(id, false, "200")
			synctest.Wait()
			streams = append(streams, a.stream)
		}
		all := 0
		for i, s := range streams {
			id := uint32(2*i + 1)
			window := streamWindow
			for range 40 { // as fast as the bubble's time: always within a round trip
				n := min(window, 1<<20)
				sendData(p, id, n)
				if _, err := io.CopyN(io.Discard, s, int64(n)); err != nil {
					t.Fatal(err)
				}
				window += p.raised(id) - n
			}
			if window > maxStreamWindow {
				t.Errorf("stream %d may send %d bytes", id, window)
			}
			if i == 0 && window < maxStreamWindow/2 {
				t.Errorf("the window has grown to %d only", window)
			}
			all += window
		}
		if limit := windowBudget + len(streams)*streamWindow; all > limit {
			t.Errorf("all streams may send %d bytes, limit %d", all, limit)
		}
		for _, s := range streams {
			s.Close()
		}
		c := s.(*h2Stream).conn
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.budget != windowBudget {
			t.Errorf("budget is %d after all is closed, want %d", c.budget, windowBudget)
		}
	})
}

// deafEdge opens two streams with large windows, stops the edge from reading
// and lets the first stream write until it blocks.
