// Package channel chooses, among the edges of one channel, the one that carries
// a flow, and knows whether the channel can carry any.
package channel

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

// ErrDown says that no edge of a channel can be reached at present.
var ErrDown = errors.New("no edge of the channel is reachable")

// State says whether a channel can carry flows.
type State uint8

// The states of a channel. The zero value is no state.
const (
	StateConnecting State = iota + 1 // not known yet
	StateUp                          // an edge answers
	StateDown                        // no edge answers
)

// String returns the state's name in lower case.
func (s State) String() string {
	switch s {
	case StateConnecting:
		return "connecting"
	case StateUp:
		return "up"
	case StateDown:
		return "down"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Tunneler reaches one edge. A *tunnel.Tunnel is one.
type Tunneler interface {
	Connect(ctx context.Context, authority string) (tunnel.Stream, error)
	Close() error
}

// Options describe a channel.
type Options struct {
	Channel policy.Channel

	// Tunnel makes the tunnel to an edge. It must not dial by itself.
	Tunnel func(policy.Edge) Tunneler

	// ProbeInterval is how often the edge in use is probed; zero means 10 s.
	ProbeInterval time.Duration

	// Roots verify the host of an https diagnosticUri; nil is the system's.
	Roots *x509.CertPool

	// OnState, if not nil, is called after each change of state. It must
	// not block.
	OnState func()

	Log *slog.Logger // nil discards
}

const defaultProbeInterval = 10 * time.Second

// Channel is a set of edges. Its methods may be called concurrently.
type Channel struct {
	opts   Options
	log    *slog.Logger
	cancel context.CancelFunc
	probes sync.WaitGroup
	wake   chan struct{} // an edge has failed: look when to probe it

	mu         sync.Mutex
	members    []*member // primaries, then secondaries
	next       int       // where the turn of the primaries is
	state      State
	cause      error // of StateDown
	since      time.Time
	inUse      *member // that carried the last flow or probe
	diagnostic string
}

// New returns a channel, whose edges are probed until Close.
func New(o Options) *Channel {
	if o.ProbeInterval <= 0 {
		o.ProbeInterval = defaultProbeInterval
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Channel{
		opts:  o,
		log:   o.Log.With(slog.String("channel", o.Channel.Name)),
		wake:  make(chan struct{}, 1),
		state: StateConnecting,
		since: time.Now(),
	}
	for _, edge := range o.Channel.Primary {
		c.members = append(c.members, &member{edge: edge, tunnel: o.Tunnel(edge), primary: true})
	}
	for _, edge := range o.Channel.Secondary {
		c.members = append(c.members, &member{edge: edge, tunnel: o.Tunnel(edge)})
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.probes.Go(func() { c.probe(ctx) })
	return c
}

// Connect opens a stream to authority, "host:port", through an edge of the
// channel, and says which. Primaries take turns; secondaries serve while every
// primary fails. An edge that cannot be reached hands over to the next at once;
// the answer of one that was reached stands, whatever it is: a *RefusedError of
// package tunnel. The error matches ErrDown if no edge is worth a try.
func (c *Channel) Connect(ctx context.Context, authority string) (tunnel.Stream, policy.Edge, error) {
	candidates, err := c.candidates()
	if err != nil {
		return nil, policy.Edge{}, err
	}
	var edge policy.Edge
	for _, m := range candidates {
		var stream tunnel.Stream
		edge = m.edge
		if stream, err = m.tunnel.Connect(ctx, authority); c.judge(ctx, m, err) {
			return stream, edge, err
		}
	}
	return nil, edge, err
}

// judge notes what a CONNECT through m tells about it, and reports whether its
// answer stands.
func (c *Channel) judge(ctx context.Context, m *member, err error) bool {
	_, refused := errors.AsType[*tunnel.RefusedError](err)
	switch {
	case err == nil, refused:
		c.answered(m)
		return true
	case ctx.Err() != nil:
		return true // the flow was given up, which says nothing of the edge
	}
	c.failed(m, err)
	return false
}

// Status is a channel at one moment.
type Status struct {
	State      State
	Cause      string // of StateDown
	Since      time.Time
	Edge       string // "host:port" of the edge that answered last
	Diagnostic string // result of the last probe of diagnosticUri
}

// Status describes the channel as it is now.
func (c *Channel) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Status{State: c.state, Since: c.since, Diagnostic: c.diagnostic}
	if c.cause != nil {
		s.Cause = c.cause.Error()
	}
	if c.inUse != nil {
		s.Edge = address(c.inUse.edge)
	}
	return s
}

// Close stops the probes and closes the tunnels, with every stream in them.
func (c *Channel) Close() error {
	c.cancel()
	var errs []error
	for _, m := range c.members {
		errs = append(errs, m.tunnel.Close())
	}
	c.probes.Wait()
	return errors.Join(errs...)
}

func address(e policy.Edge) string { return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))) }
