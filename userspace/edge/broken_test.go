package edge

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// takesNoMore reports whether a flow of the edge has met a destination that takes
// no more.
func (e *Edge) takesNoMore() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.live {
		c := c.(*connection)
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, s := range c.streams {
			if s.broken {
				return true
			}
		}
	}
	return false
}

// The client's window holds back what the destination has said, and so the edge
// learns by a failed write that the destination has gone.
func TestLastWordsOfADestinationThatTakesNoMoreArrive(t *testing.T) {
	const words = "these are the last words"
	target := serveOrigin(t, func(conn *net.TCPConn) {
		io.WriteString(conn, words)
		io.ReadFull(conn, make([]byte, 1))
		conn.SetLinger(0)
	})
	e, addr, config := serve(t)
	c := dialClient(t, addr, config, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	s := c.connect(target)
	if status, err := s.status(); status != "200" {
		t.Fatal(status, err)
	}
	for end := time.Now().Add(time.Minute); !e.takesNoMore(); {
		if _, err := s.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatal("the edge writes on to a destination that has gone")
		}
	}
	c.mu.Lock()
	c.framer.WriteWindowUpdate(s.id, 1000)
	c.mu.Unlock()
	got, err := io.ReadAll(s)
	if string(got) != words {
		t.Errorf("received %q, want %q", got, words)
	}
	if !errors.Is(err, errStreamReset) || s.resetCode() != "CONNECT_ERROR" {
		t.Errorf("Read = %v, want a reset with CONNECT_ERROR", err)
	}
	if n := e.slots.Load(); n != 0 {
		t.Errorf("%d slots are taken after the last flow", n)
	}
}
