package relay

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

func TestFlowEndsInOrderWhenBothSidesHalfClose(t *testing.T) {
	c := newCarried(t)
	mustWrite(t, c.app, "ping")
	wantRead(t, c.edge, "ping")
	mustWrite(t, c.edge, "pong!")
	wantRead(t, c.app, "pong!")
	c.app.CloseWrite()
	wantEOF(t, c.edge)
	c.edge.closeWrite()
	wantEOF(t, c.app)

	f := c.ended(t)
	wantOutcome(t, f, flow.StateClosed, "")
	wantBytes(t, f, 4, 5)
	wantResets(t, c.stream, 0)
	if f.Rule != "r3" || f.Channel != "private" || f.Edge != "edge.test:443" || f.Status != 200 {
		t.Errorf("flow has the route %+v, want %+v", f, testRoute)
	}
	if got := c.flows.Totals(); got != (flow.Totals{Closed: 1, BytesSent: 4, BytesReceived: 5}) {
		t.Errorf("totals are %+v", got)
	}
}

func TestEdgeSendsOnAfterApplicationHalfCloses(t *testing.T) {
	c := newCarried(t)
	mustWrite(t, c.app, "question")
	c.app.CloseWrite()
	wantRead(t, c.edge, "question")
	wantEOF(t, c.edge)
	for range 100 {
		mustWrite(t, c.edge, "part of the answer")
		wantRead(t, c.app, "part of the answer")
	}
	c.edge.closeWrite()
	wantEOF(t, c.app)

	f := c.ended(t)
	wantOutcome(t, f, flow.StateClosed, "")
	wantBytes(t, f, 8, 1800)
	wantResets(t, c.stream, 0)
}

func TestApplicationSendsOnAfterEdgeHalfCloses(t *testing.T) {
	c := newCarried(t)
	mustWrite(t, c.edge, "banner")
	c.edge.closeWrite()
	wantRead(t, c.app, "banner")
	wantEOF(t, c.app)
	for range 100 {
		mustWrite(t, c.app, "part of the question")
		wantRead(t, c.edge, "part of the question")
	}
	c.app.Close()
	wantEOF(t, c.edge)

	f := c.ended(t)
	wantOutcome(t, f, flow.StateClosed, "")
	wantBytes(t, f, 2000, 6)
	wantResets(t, c.stream, 0)
}

// An edge that closes as a whole once its far side is done must not cut the
// answer of an application that happens to write meanwhile.
func TestAnswerIsDeliveredWhenEdgeTakesNoMore(t *testing.T) {
	c := newCarried(t)
	c.edge.deafen()
	for range 100 {
		mustWrite(t, c.app, "acknowledged")
		mustWrite(t, c.edge, "part of the answer")
		wantRead(t, c.app, "part of the answer")
	}
	rest := bytes.Repeat([]byte("rest "), 400_000)
	go func() {
		c.edge.Write(rest)
		c.edge.closeWrite()
	}()
	got, acknowledged := make([]byte, 0, len(rest)), 0
	for part := make([]byte, 8<<10); ; acknowledged++ {
		n, err := c.app.Read(part)
		got = append(got, part[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("application read %d bytes of %d: %v", len(got), len(rest), err)
		}
		mustWrite(t, c.app, "ok")
	}
	if !bytes.Equal(got, rest) {
		t.Errorf("application read %d bytes, not the %d that the edge wrote", len(got), len(rest))
	}
	c.app.Close()

	f := c.ended(t)
	wantOutcome(t, f, flow.StateReset, "edge reset: stream reset by edge")
	wantBytes(t, f, uint64(1200+2*acknowledged), 1800+uint64(len(rest)))
	wantResets(t, c.stream, 0)
}

func TestApplicationThatKeepsAnEndedFlowOpenIsGivenUp(t *testing.T) {
	stream := newTestStream()
	r := newRig(t, dialFunc(func(context.Context, flow.Record) (Stream, flow.Route, error) {
		return stream, testRoute, nil
	}))
	r.relay.lingerPause = time.Millisecond
	app, done := r.carry(t.Context())
	edge{stream}.deafen()
	mustWrite(t, app, "ping")
	mustWrite(t, edge{stream}, "answer")
	edge{stream}.closeWrite()
	wantRead(t, app, "answer")
	wantEOF(t, app)
	await(t, "end of the flow", done)

	f := onlyFlow(t, r.flows)
	wantOutcome(t, f, flow.StateReset, "edge reset: stream reset by edge")
	wantBytes(t, f, 4, 6)
	wantResets(t, stream, 0)
}

// Without an end to lingering, an application that only writes would fill a
// flow that leads nowhere.
func TestApplicationIsResetWhenItWritesOnToADeafEdge(t *testing.T) {
	c := newCarried(t)
	c.edge.deafen()
	var err error
	for written := 0; err == nil && written < 64<<20; written += 1 << 16 {
		_, err = c.app.Write(make([]byte, 1<<16))
	}
	if err == nil {
		t.Fatal("application wrote 64 MB to an edge that takes nothing")
	}
	f := c.ended(t)
	wantOutcome(t, f, flow.StateReset, "edge reset")
	wantResets(t, c.stream, 1)
	if f.BytesSent > lingerBytes+2*largestBuffer {
		t.Errorf("relay took %d bytes for an edge that takes nothing", f.BytesSent)
	}
}

func TestStreamWritesToTheApplicationByItselfWhenItCan(t *testing.T) {
	for _, test := range []struct {
		name  string
		end   func(*carried)
		state flow.State
		cause string
	}{
		{"until its end", func(c *carried) { c.edge.closeWrite() }, flow.StateClosed, ""},
		{"until its reset", func(c *carried) { c.edge.reset() }, flow.StateReset, "edge reset"},
		{"until the application's reset", func(c *carried) { abort(c.app) }, flow.StateReset, "application reset"},
	} {
		t.Run(test.name, func(t *testing.T) {
			stream := &writingStream{testStream: newTestStream()}
			c := newCarriedWith(t, t.Context(), stream.testStream, stream)
			mustWrite(t, c.edge, "pong!")
			wantRead(t, c.app, "pong!")
			mustWrite(t, c.app, "ping")
			c.app.CloseWrite()
			wantRead(t, c.edge, "ping")
			wantEOF(t, c.edge)
			test.end(c)

			f := c.ended(t)
			wantOutcome(t, f, test.state, test.cause)
			wantBytes(t, f, 4, 5)
			if n := stream.wroteTo.Load(); n != 1 {
				t.Errorf("stream wrote to the application %d times, want once", n)
			}
		})
	}
}

// What the keep-alives find is the kernel's: an application that has closed as a
// whole answers with a reset, once it has left FIN_WAIT2.
func TestApplicationIsAskedWhetherItIsThereAfterItsHalfClose(t *testing.T) {
	stream := newTestStream()
	r := newRig(t, dialFunc(func(context.Context, flow.Record) (Stream, flow.Route, error) {
		return stream, testRoute, nil
	}))
	r.relay.halfClosePause = time.Millisecond
	app, accepted := r.pair()
	accepted.SetKeepAlive(false) // as package listen accepts
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.relay.Carry(t.Context(), accepted, testRecord)
	}()
	raw, err := accepted.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	asked := func() (on int) {
		raw.Control(func(fd uintptr) { on, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE) })
		if err != nil {
			t.Fatal(err)
		}
		return on
	}

	mustWrite(t, app, "ping")
	wantRead(t, edge{stream}, "ping")
	if asked() != 0 {
		t.Error("an application that has not half-closed is asked")
	}
	app.CloseWrite()
	wantEOF(t, edge{stream})
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for limit := time.After(patience); asked() == 0; {
		select {
		case <-look.C:
		case <-limit:
			t.Fatal("an application that has half-closed is not asked")
		}
	}
	edge{stream}.closeWrite()
	await(t, "end of the flow", done)
}
