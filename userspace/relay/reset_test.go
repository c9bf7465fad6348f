package relay

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

func TestApplicationResetResetsStream(t *testing.T) {
	c := newCarried(t)
	mustWrite(t, c.app, "ping")
	wantRead(t, c.edge, "ping")
	abort(c.app)
	await(t, "Reset", c.stream.reset)
	f := c.ended(t)
	wantOutcome(t, f, flow.StateReset, "application reset")
	wantBytes(t, f, 4, 0)
	wantResets(t, c.stream, 1)
}

// Nobody reads the connection then: its reader waits for the edge.
func TestApplicationResetIsSeenWhileEdgeTakesNothing(t *testing.T) {
	c := newCarried(t)
	c.fill(t)
	sent := c.flows.Totals().BytesSent
	abort(c.app)
	await(t, "Reset", c.stream.reset)
	f := c.ended(t)
	wantOutcome(t, f, flow.StateReset, "application reset")
	wantBytes(t, f, sent, 0)
	wantResets(t, c.stream, 1)
}

func TestApplicationResetIsSeenAfterItHalfClosed(t *testing.T) {
	c := newCarried(t)
	c.app.CloseWrite()
	wantEOF(t, c.edge)
	abort(c.app)
	await(t, "Reset", c.stream.reset)
	wantOutcome(t, c.ended(t), flow.StateReset, "application reset")
	wantResets(t, c.stream, 1)
}

func TestWritingToAClosedApplicationResetsStream(t *testing.T) {
	c := newCarried(t)
	c.app.Close()
	wantEOF(t, c.edge)
	// The first bytes provoke the RST, later ones meet it. It takes its time on a
	// busy machine: until then sockets take what they hold, which is less.
	var err error
	for written := 0; err == nil && written < 64<<20; written += 1 << 10 {
		_, err = c.edge.Write(make([]byte, 1<<10))
	}
	if err == nil {
		t.Error("edge wrote 64 MB to an application that is gone")
	}
	wantOutcome(t, c.ended(t), flow.StateReset, "application reset")
	wantResets(t, c.stream, 1)
}

func TestStreamResetResetsApplication(t *testing.T) {
	for _, test := range []struct {
		name   string
		before func(*testing.T, *carried)
	}{
		{"while idle", func(*testing.T, *carried) {}},
		{"after the application half-closed", func(t *testing.T, c *carried) {
			c.app.CloseWrite()
			wantEOF(t, c.edge)
		}},
		{"while the application waits for the edge", func(t *testing.T, c *carried) { c.fill(t) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCarried(t)
			test.before(t, c)
			c.edge.reset()
			wantReset(t, c.app)
			wantOutcome(t, c.ended(t), flow.StateReset, "edge reset: stream reset by edge")
		})
	}
}

func TestCanceledContextResetsBothSides(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := newCarriedWith(t, ctx, newTestStream(), nil)
	mustWrite(t, c.app, "ping")
	wantRead(t, c.edge, "ping")
	cancel()
	wantReset(t, c.app)
	wantOutcome(t, c.ended(t), flow.StateReset, "agent stopped")
	wantResets(t, c.stream, 1)
}

func TestDrain(t *testing.T) {
	expired, cancel := context.WithCancel(t.Context())
	cancel()

	t.Run("waits for flows", func(t *testing.T) {
		c := newCarried(t)
		mustWrite(t, c.app, "ping")
		wantRead(t, c.edge, "ping")
		left := make(chan int)
		go func() { left <- c.relay.Drain(t.Context()) }()
		c.app.CloseWrite()
		wantEOF(t, c.edge)
		mustWrite(t, c.edge, "last words")
		c.edge.closeWrite()
		wantRead(t, c.app, "last words")
		wantEOF(t, c.app)
		if n := <-left; n != 0 {
			t.Errorf("Drain reset %d flows, want none", n)
		}
		wantOutcome(t, c.ended(t), flow.StateClosed, "")
		wantResets(t, c.stream, 0)
	})
	t.Run("resets what is left at the deadline", func(t *testing.T) {
		c := newCarried(t)
		mustWrite(t, c.app, "ping")
		wantRead(t, c.edge, "ping")
		if n := c.relay.Drain(expired); n != 1 {
			t.Errorf("Drain reset %d flows, want 1", n)
		}
		wantReset(t, c.app)
		wantOutcome(t, c.ended(t), flow.StateReset, "agent stopped")
	})
	t.Run("resets a flow that comes later", func(t *testing.T) {
		r := newRig(t, dialFunc(func(ctx context.Context, _ flow.Record) (Stream, flow.Route, error) {
			<-ctx.Done()
			return nil, flow.Route{}, ctx.Err()
		}))
		if n := r.relay.Drain(expired); n != 0 {
			t.Errorf("Drain reset %d flows, want none", n)
		}
		app, done := r.carry(t.Context())
		wantReset(t, app)
		await(t, "Carry", done)
		wantOutcome(t, onlyFlow(t, r.flows), flow.StateReset, "agent stopped")
	})
}

// fill makes the application write until nothing on the way takes more, and
// returns the bytes that it wrote.
func (c *carried) fill(tb testing.TB) (written int) {
	tb.Helper()
	raw, err := c.app.SyscallConn()
	if err != nil {
		tb.Fatal(err)
	}
	chunk := make([]byte, 64<<10)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		var n int
		var writeErr error
		raw.Control(func(fd uintptr) { n, writeErr = syscall.Write(int(fd), chunk) })
		switch {
		case writeErr == nil:
			written += n
		case !errors.Is(writeErr, syscall.EAGAIN):
			tb.Fatal(writeErr)
		case c.stalled():
			return written
		}
	}
	tb.Fatalf("application wrote %d bytes to an edge that does not read", written)
	return 0
}

// stalled reports whether the stream is full and the relay's buffer waits
// before it.
func (c *carried) stalled() bool {
	queued := c.stream.toEdge.queued()
	return queued == pipeLimit && c.flows.Totals().BytesSent > pipeLimit
}
