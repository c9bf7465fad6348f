package relay

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for, so that a hang is a failure.
const patience = 20 * time.Second

var testRecord = flow.Record{OrigDst: netip.MustParseAddrPort("192.0.2.7:80"), Rule: 3, Generation: 9, PID: 42, UID: 7}

var testRoute = flow.Route{Rule: "r3", Channel: "private", Edge: "edge.test:443", Status: 200}

type dialFunc func(context.Context, flow.Record) (Stream, flow.Route, error)

func (f dialFunc) Connect(ctx context.Context, rec flow.Record) (Stream, flow.Route, error) {
	return f(ctx, rec)
}

// carried is one flow under test: app is the application's end of a real
// connection, edge the far end of a fake stream.
type carried struct {
	app    *net.TCPConn
	stream *testStream
	edge   edge
	flows  *flow.Table
	relay  *Relay
	done   chan struct{} // closed when Carry has returned
}

// rig is a Relay and all that it needs to carry flows in a test.
type rig struct {
	tb       testing.TB
	listener *net.TCPListener
	flows    *flow.Table
	relay    *Relay
	log      *strings.Builder
}

func newRig(tb testing.TB, dialer Dialer) *rig {
	tb.Helper()
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { listener.Close() })
	r := &rig{tb: tb, listener: listener, flows: flow.NewTable(0), log: new(strings.Builder)}
	r.relay, err = New(Options{Dialer: dialer, Flows: r.flows, Log: slog.New(slog.NewTextHandler(r.log, nil))})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		stopped, cancel := context.WithCancel(context.Background())
		cancel()
		r.relay.Drain(stopped)
	})
	return r
}

// pair returns both ends of a new connection over loopback.
func (r *rig) pair() (app, accepted *net.TCPConn) {
	r.tb.Helper()
	conn, err := net.Dial("tcp4", r.listener.Addr().String())
	if err != nil {
		r.tb.Fatal(err)
	}
	r.tb.Cleanup(func() { conn.Close() })
	if accepted, err = r.listener.AcceptTCP(); err != nil {
		r.tb.Fatal(err)
	}
	return conn.(*net.TCPConn), accepted
}

// carry starts to carry a new connection.
func (r *rig) carry(ctx context.Context) (app *net.TCPConn, done chan struct{}) {
	r.tb.Helper()
	app, accepted := r.pair()
	app.SetDeadline(time.Now().Add(patience))
	done = make(chan struct{})
	go func() {
		defer close(done)
		r.relay.Carry(ctx, accepted, testRecord)
	}()
	return app, done
}

// newCarried carries one flow through an edge that accepts it.
func newCarried(tb testing.TB) *carried {
	return newCarriedWith(tb, tb.Context(), newTestStream(), nil)
}

func newCarriedWith(tb testing.TB, ctx context.Context, stream *testStream, as Stream) *carried {
	tb.Helper()
	if as == nil {
		as = stream
	}
	r := newRig(tb, dialFunc(func(context.Context, flow.Record) (Stream, flow.Route, error) {
		return as, testRoute, nil
	}))
	c := &carried{stream: stream, edge: edge{stream}, flows: r.flows, relay: r.relay}
	c.app, c.done = r.carry(ctx)
	return c
}

func await(tb testing.TB, what string, done <-chan struct{}) {
	tb.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		tb.Fatalf("%s: still waiting after %v", what, patience)
	}
}

// ended waits for Carry and returns the flow's record, after checking that
// both sides were released once.
func (c *carried) ended(tb testing.TB) flow.Flow {
	tb.Helper()
	await(tb, "Carry", c.done)
	if n := c.stream.closes.Load(); n != 1 {
		tb.Errorf("stream was closed %d times, want once", n)
	}
	if n := c.stream.resets.Load(); n > 1 {
		tb.Errorf("stream was reset %d times, want at most once", n)
	}
	return onlyFlow(tb, c.flows)
}

func onlyFlow(tb testing.TB, table *flow.Table) flow.Flow {
	tb.Helper()
	flows := table.Snapshot()
	if len(flows) != 1 {
		tb.Fatalf("table holds %d flows, want 1", len(flows))
	}
	if flows[0].Ended.IsZero() {
		tb.Errorf("flow has no end: %+v", flows[0])
	}
	return flows[0]
}

func wantOutcome(tb testing.TB, f flow.Flow, state flow.State, cause string) {
	tb.Helper()
	if f.State != state || !strings.HasPrefix(f.Cause, cause) || (cause == "" && f.Cause != "") {
		tb.Errorf("flow ended as %v (%q), want %v (%q)", f.State, f.Cause, state, cause)
	}
}

func wantBytes(tb testing.TB, f flow.Flow, sent, received uint64) {
	tb.Helper()
	if f.BytesSent != sent || f.BytesReceived != received {
		tb.Errorf("flow counts %d sent, %d received; want %d, %d", f.BytesSent, f.BytesReceived, sent, received)
	}
}

func wantResets(tb testing.TB, s *testStream, want int32) {
	tb.Helper()
	if n := s.resets.Load(); n != want {
		tb.Errorf("stream was reset %d times, want %d", n, want)
	}
}

// wantReset reads the application's end until it fails, which must be with
// ECONNRESET.
func wantReset(tb testing.TB, app net.Conn) {
	tb.Helper()
	if _, err := io.Copy(io.Discard, app); !errors.Is(err, syscall.ECONNRESET) {
		tb.Errorf("application read: %v, want %v", err, syscall.ECONNRESET)
	}
}

func mustWrite(tb testing.TB, w io.Writer, text string) {
	tb.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		tb.Fatalf("write %q: %v", text, err)
	}
}

func wantRead(tb testing.TB, r io.Reader, want string) {
	tb.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		tb.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

func wantEOF(tb testing.TB, r io.Reader) {
	tb.Helper()
	if rest, err := io.ReadAll(r); len(rest) != 0 || err != nil {
		tb.Fatalf("read %q, %v; want the end", rest, err)
	}
}

// abort closes the application's end with RST.
func abort(app *net.TCPConn) {
	app.SetLinger(0)
	app.Close()
}
