package edge

import (
	"bytes"
	"io"
	"net"
	"testing"

	"golang.org/x/net/http2"
)

func TestTinyWindowsAreKept(t *testing.T) {
	target := serveOrigin(t, func(conn *net.TCPConn) { conn.Write(bytes.Repeat([]byte("x"), 1000)) })
	_, addr, config := serve(t)
	c := dialClient(t, addr, config, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 7})
	s := c.connect(target)
	for got := 0; got < 1000; {
		n, err := s.Read(make([]byte, 2000))
		if err != nil {
			t.Fatal(err)
		}
		if n > 7 {
			t.Fatalf("%d bytes arrived in a window of 7", n)
		}
		got += n
		c.mu.Lock()
		c.framer.WriteWindowUpdate(s.id, uint32(n))
		c.mu.Unlock()
	}
	if n, err := s.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read = %d, %v after the end, want EOF", n, err)
	}
}

func TestShrunkWindowStopsAStream(t *testing.T) {
	target := serveOrigin(t, echo)
	_, addr, config := serve(t)
	c := dialClient(t, addr, config, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 4})
	s := c.connect(target)
	io.WriteString(s, "abcd")
	if _, err := io.ReadFull(s, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}) // the window is -4 now
	c.framer.WriteWindowUpdate(s.id, 4)                                               // and 0
	c.mu.Unlock()
	io.WriteString(s, "efgh")
	c.mu.Lock()
	c.framer.WriteWindowUpdate(s.id, 1)
	c.mu.Unlock()
	p := make([]byte, 8)
	if n, err := s.Read(p); err != nil || string(p[:n]) != "e" {
		t.Errorf("Read = %q, %v, want the one byte that the window permits", p[:n], err)
	}
}

func TestWindowGrowsWhileTheDestinationKeepsUp(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	c := newConnection(newTestEdge(t), far, nil)
	s := &stream{conn: c, id: 1, window: streamWindow, fullSize: streamWindow}
	pass := func(n int) {
		s.window -= n
		s.passed(n)
	}
	for _, step := range []struct {
		name     string
		stalled  bool
		n        int
		fullSize int
		window   int
	}{
		{"too little for an update", false, streamWindow/2 - 1, streamWindow, streamWindow/2 + 1},
		{"half the window", false, 1, 2 * streamWindow, 2 * streamWindow},
		{"half the new window, slowly", true, streamWindow, 2 * streamWindow, 2 * streamWindow},
		{"half the window again", false, streamWindow, 4 * streamWindow, 4 * streamWindow},
		{"to the maximum", false, 4 * streamWindow, 8 * streamWindow, 8 * streamWindow},
		{"to the maximum", false, 8 * streamWindow, maxStreamWindow, maxStreamWindow},
		{"and no further", false, maxStreamWindow, maxStreamWindow, maxStreamWindow},
	} {
		s.stalled = step.stalled
		if pass(step.n); s.fullSize != step.fullSize || s.window != step.window {
			t.Errorf("%s: window %d of %d, want %d of %d", step.name, s.window, s.fullSize, step.window, step.fullSize)
		}
	}
}

func TestConnectionWaitsWhenTooMuchIsHeld(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	c := newConnection(newTestEdge(t), far, nil)
	c.credit, c.window, c.backlog = connectionWindow/2, connectionWindow/2, maxBacklog+1
	if c.replenish(); c.window != connectionWindow/2 || len(c.queue) != 0 {
		t.Errorf("window %d beyond the backlog's limit, want %d", c.window, connectionWindow/2)
	}
	c.backlog--
	if c.replenish(); c.window != connectionWindow || len(c.queue) == 0 {
		t.Errorf("window %d within the backlog's limit, want %d", c.window, connectionWindow)
	}
}
