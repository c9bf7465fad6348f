package channel

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is what the flows of these tests want.
const host = "host.example:80"

var (
	errTest = errors.New("connection refused")

	unreached = func(context.Context, string) (tunnel.Stream, error) {
		return nil, &tunnel.StageError{Stage: tunnel.StageDial, Err: errTest}
	}
	well = func(context.Context, string) (tunnel.Stream, error) { return quiet{}, nil }
)

// silent is an edge at which no packet arrives.
func silent(ctx context.Context, _ string) (tunnel.Stream, error) {
	<-ctx.Done()
	return nil, &tunnel.StageError{Stage: tunnel.StageDial, Err: context.Cause(ctx)}
}

// after is an edge that takes its time.
func after(d time.Duration, answer connect) connect {
	return func(ctx context.Context, authority string) (tunnel.Stream, error) {
		<-time.After(d)
		return answer(ctx, authority)
	}
}

func refusing(status int) connect {
	return func(context.Context, string) (tunnel.Stream, error) {
		return nil, &tunnel.RefusedError{Status: status}
	}
}

// quiet is a stream that carries nothing.
type quiet struct{}

func (quiet) Read([]byte) (int, error)    { return 0, io.EOF }
func (quiet) Write(p []byte) (int, error) { return len(p), nil }
func (quiet) CloseWrite() error           { return nil }
func (quiet) Reset() error                { return nil }
func (quiet) Close() error                { return nil }

type connect func(ctx context.Context, authority string) (tunnel.Stream, error)

// call is one CONNECT that an edge was asked for.
type call struct {
	authority string
	at        time.Duration // since the rig began
}

// stub is the tunnel to an edge that does as it is told.
type stub struct {
	name  string
	began time.Time

	mu     sync.Mutex
	answer connect
	calls  []call
	udp    error // what ConnectUDP returns
	wanted int   // flows that ConnectUDP was asked for
	closed int
}

// Connect implements Tunneler.
func (s *stub) Connect(ctx context.Context, authority string) (tunnel.Stream, error) {
	s.mu.Lock()
	s.calls = append(s.calls, call{authority, time.Since(s.began)})
	answer := s.answer
	s.mu.Unlock()
	return answer(ctx, authority)
}

// Protocol implements Tunneler.
func (s *stub) Protocol() string { return "h2" }

// ConnectUDP implements Tunneler.
func (s *stub) ConnectUDP(context.Context, string) (tunnel.Datagrams, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted++
	if s.udp != nil {
		return nil, s.udp
	}
	return still{}, nil
}

// carryUDP sets what ConnectUDP returns.
func (s *stub) carryUDP(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.udp = err
}

// asked is how often ConnectUDP was asked for a flow.
func (s *stub) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wanted
}

// still is a flow without datagrams.
type still struct{}

func (still) Send([][]byte) error          { return nil }
func (still) Receive(func([][]byte)) error { return io.EOF }
func (still) Dropped() uint64              { return 0 }
func (still) Close() error                 { return nil }

// Close implements Tunneler.
func (s *stub) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
	return nil
}

func (s *stub) turn(answer connect) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// times are when the edge was asked for authority.
func (s *stub) times(authority string) []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var at []time.Duration
	for _, c := range s.calls {
		if c.authority == authority {
			at = append(at, c.at)
		}
	}
	return at
}

func (s *stub) flows() int { return len(s.times(host)) }

// probes are when the edge was asked for its own loopback.
func (s *stub) probes() []time.Duration { return s.times(ownLoopback) }

// rig is a channel of stubs. The primaries are "a", "b" …, the secondaries "x",
// "y" …; all are well and none names a diagnosticUri unless the test changes
// that.
type rig struct {
	*Channel
	t     *testing.T
	began time.Time
	edges map[string]*stub

	mu     sync.Mutex
	states []State // at each call of OnState
}

// options are those of a rig, and its edges' behaviour from the start.
type options struct {
	Options
	edges string // "ab xy": primaries, then secondaries
	start map[string]connect
}

// inBubble runs a test with a channel in fake time.
func inBubble(t *testing.T, o options, test func(*testing.T, *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, began: time.Now(), edges: make(map[string]*stub)}
		o := o
		secondary := false
		for _, name := range o.edges {
			switch edge := (policy.Edge{Host: string(name), Port: 443, Secure: true}); {
			case name == ' ':
				secondary = true
			case secondary:
				o.Channel.Secondary = append(slices.Clip(o.Channel.Secondary), edge)
			default:
				o.Channel.Primary = append(slices.Clip(o.Channel.Primary), edge)
			}
		}
		o.Tunnel = func(edge policy.Edge) Tunneler {
			s := &stub{name: edge.Host, began: r.began, answer: well}
			if answer, ok := o.start[edge.Host]; ok {
				s.answer = answer
			}
			r.edges[edge.Host] = s
			return s
		}
		made := make(chan struct{})
		o.OnState = func() {
			<-made
			r.mu.Lock()
			defer r.mu.Unlock()
			r.states = append(r.states, r.Status().State)
		}
		r.Channel = New(o.Options)
		close(made)
		defer r.Close()
		synctest.Wait()
		test(t, r)
	})
}

// seen are the states that OnState has told of so far.
func (r *rig) seen() []State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.states)
}

// flow opens a flow and returns the name of the edge that took it. It waits
// longer than any edge is to be waited for.
func (r *rig) flow() (string, error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Hour)
	defer cancel()
	stream, edge, err := r.Connect(ctx, host)
	if (stream == nil) == (err == nil) {
		r.t.Fatalf("Connect returns stream %v and error %v", stream, err)
	}
	return edge.Host, err
}

// takes opens flows and wants each to be carried by the named edge.
func (r *rig) takes(names ...string) {
	r.t.Helper()
	for i, want := range names {
		if got, err := r.flow(); err != nil || got != want {
			r.t.Errorf("flow %d went through %q (%v), want %q", i, got, err, want)
		}
	}
}

// pass lets time pass, and all that is due then happen.
func (r *rig) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (r *rig) wantState(want State) {
	r.t.Helper()
	if s := r.Status(); s.State != want || (s.Cause != "") != (want == StateDown) {
		r.t.Errorf("after %v the channel is %v (%q), want %v", time.Since(r.began), s.State, s.Cause, want)
	}
}

func (r *rig) wantSeen(want ...State) {
	r.t.Helper()
	if got := r.seen(); !slices.Equal(got, want) {
		r.t.Errorf("OnState told of %v, want %v", got, want)
	}
}
