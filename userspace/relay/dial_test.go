package relay

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

func TestFlowWithoutAStreamIsReset(t *testing.T) {
	refused := errors.New("refused by edge")
	for _, test := range []struct {
		name   string
		status int
		state  flow.State
		totals flow.Totals
	}{
		{"forbidden", 403, flow.StateRefused, flow.Totals{Refused: 1}},
		{"credentials wanted", 407, flow.StateRefused, flow.Totals{Refused: 1}},
		{"far side unreachable", 502, flow.StateRefused, flow.Totals{Refused: 1}},
		{"no answer", 0, flow.StateFailed, flow.Totals{Failed: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			route := testRoute
			route.Status = test.status
			r := newRig(t, dialFunc(func(context.Context, flow.Record) (Stream, flow.Route, error) {
				return nil, route, refused
			}))
			app, done := r.carry(t.Context())
			wantReset(t, app)
			await(t, "Carry", done)

			f := onlyFlow(t, r.flows)
			wantOutcome(t, f, test.state, "refused by edge")
			wantBytes(t, f, 0, 0)
			if f.Status != test.status || f.Edge != route.Edge {
				t.Errorf("flow has status %d from %q, want %d from %q", f.Status, f.Edge, test.status, route.Edge)
			}
			if got := r.flows.Totals(); got != test.totals {
				t.Errorf("totals are %+v, want %+v", got, test.totals)
			}
			wantOneLine(t, r.log.String(), "level=WARN", "state="+test.state.String(),
				`cause="refused by edge"`, "edge=edge.test:443", "orig_dst=192.0.2.7:80")
		})
	}
}

func wantOneLine(t *testing.T, log string, attributes ...string) {
	t.Helper()
	if n := strings.Count(log, "\n"); n != 1 {
		t.Errorf("log has %d lines, want 1:\n%s", n, log)
	}
	for _, a := range attributes {
		if !strings.Contains(log, a) {
			t.Errorf("log lacks %s:\n%s", a, log)
		}
	}
}

// pending is a flow whose edge does not answer until the test lets it.
type pending struct {
	carried
	dialing  chan struct{} // closed when Connect is called
	canceled chan struct{} // closed when Connect sees its context end
	answer   chan struct{}
	log      *strings.Builder
}

func newPending(t *testing.T, ctx context.Context) *pending {
	t.Helper()
	stream := newTestStream()
	p := &pending{
		carried:  carried{stream: stream, edge: edge{stream}},
		dialing:  make(chan struct{}),
		canceled: make(chan struct{}),
		answer:   make(chan struct{}),
	}
	r := newRig(t, dialFunc(func(ctx context.Context, _ flow.Record) (Stream, flow.Route, error) {
		close(p.dialing)
		select {
		case <-p.answer:
			return stream, testRoute, nil
		case <-ctx.Done():
			close(p.canceled)
			return nil, flow.Route{}, ctx.Err()
		}
	}))
	p.flows, p.relay, p.log = r.flows, r.relay, r.log
	p.app, p.done = r.carry(ctx)
	await(t, "Connect", p.dialing)
	return p
}

func TestApplicationResetCancelsConnect(t *testing.T) {
	for _, test := range []struct {
		name   string
		before func(*testing.T, *pending)
	}{
		{"with nothing sent", func(*testing.T, *pending) {}},
		{"with data sent", func(t *testing.T, p *pending) { mustWrite(t, p.app, "hello") }},
		{"after a half-close", func(_ *testing.T, p *pending) { p.app.CloseWrite() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPending(t, t.Context())
			test.before(t, p)
			abort(p.app)
			await(t, "cancel of Connect", p.canceled)
			await(t, "Carry", p.done)
			wantOutcome(t, onlyFlow(t, p.flows), flow.StateReset, "application reset")
			if p.log.Len() != 0 {
				t.Errorf("log has a warning that nobody needs:\n%s", p.log)
			}
		})
	}
}

func TestCanceledContextCancelsConnect(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := newPending(t, ctx)
	cancel()
	await(t, "cancel of Connect", p.canceled)
	wantReset(t, p.app)
	await(t, "Carry", p.done)
	wantOutcome(t, onlyFlow(t, p.flows), flow.StateReset, "agent stopped")
}

// An application may send all it has and half-close before its edge answers.
func TestWhatIsSentBeforeTheEdgeAnswersReachesIt(t *testing.T) {
	for _, early := range []string{"", "question"} {
		t.Run("sent "+early, func(t *testing.T) {
			p := newPending(t, t.Context())
			mustWrite(t, p.app, early)
			p.app.CloseWrite()
			close(p.answer)
			if got, err := io.ReadAll(p.edge); string(got) != early || err != nil {
				t.Fatalf("edge read %q, %v; want %q", got, err, early)
			}
			mustWrite(t, p.edge, "answer")
			p.edge.closeWrite()
			wantRead(t, p.app, "answer")
			wantEOF(t, p.app)

			f := p.ended(t)
			wantOutcome(t, f, flow.StateClosed, "")
			wantBytes(t, f, uint64(len(early)), 6)
			wantResets(t, p.stream, 0)
		})
	}
}

// The abort must reach a stream that arrives although its flow has ended.
func TestStreamThatComesTooLateIsReset(t *testing.T) {
	stream := newTestStream()
	ctx, cancel := context.WithCancel(t.Context())
	r := newRig(t, dialFunc(func(context.Context, flow.Record) (Stream, flow.Route, error) {
		cancel()
		return stream, testRoute, nil
	}))
	app, done := r.carry(ctx)
	wantReset(t, app)
	await(t, "Carry", done)
	wantOutcome(t, onlyFlow(t, r.flows), flow.StateReset, "agent stopped")
	wantResets(t, stream, 1)
	if n := stream.closes.Load(); n != 1 {
		t.Errorf("stream was closed %d times, want once", n)
	}
}
