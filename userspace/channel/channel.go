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
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

var (
	// ErrDown says that no edge of a channel can be reached at present.
	ErrDown = errors.New("no edge of the channel is reachable")

	errNoEdges  = errors.New("the profile names none")
	errNoAnswer = errors.New("no answer in time")
	errTooLong  = errors.New("answer too long")
	errPattern  = errors.New(`want a host name, "*." and a domain, an address or a CIDR`)
)

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

// Tunneler reaches one edge. A *tunnel.Tunnel is one; others keep to what it
// says about errors, and return soon after ctx is done.
type Tunneler interface {
	Connect(ctx context.Context, authority string) (tunnel.Stream, error)
	ConnectUDP(ctx context.Context, authority string) (tunnel.Datagrams, error)
	Protocol() string
	Close() error
}

// Options describe a channel.
type Options struct {
	Channel policy.Channel

	// Tunnel makes the tunnel to an edge. It must not dial by itself.
	Tunnel func(policy.Edge) Tunneler

	// ProbeInterval is how often the edges in use are probed; zero means
	// 10 s.
	ProbeInterval time.Duration

	// Roots verify the host of an https diagnosticUri; nil is the system's.
	Roots *x509.CertPool

	// OnState, if not nil, is called after each change of state, or of what
	// is known of datagrams, also concurrently. It must not block.
	OnState func()

	Log *slog.Logger // nil discards
}

const defaultProbeInterval = 10 * time.Second

// Channel is a set of edges. Its methods may be called concurrently.
type Channel struct {
	opts   Options
	log    *slog.Logger
	uri    *url.URL        // diagnosticUri, or nil
	ctx    context.Context // of the probes; ends with Close
	cancel context.CancelFunc
	probes sync.WaitGroup
	wake   chan struct{} // an edge has failed: look when to probe it

	mu         sync.Mutex
	members    []*member // primaries, then secondaries
	next       int       // where the turn of the primaries is
	tick       time.Time // when the edges in use are to be probed
	abandon    func()    // ends the probes under way
	state      State
	cause      error // of StateDown
	since      time.Time
	datagrams  Datagrams
	last       *member // that answered last
	diagnostic string
}

// New returns a channel, whose edges are probed until Close. One that has no
// edge is down.
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
		uri:   diagnosticURI(o.Channel),
		wake:  make(chan struct{}, 1),
		state: StateConnecting,
		since: time.Now(),

		abandon: func() {},
	}
	for _, edge := range o.Channel.Primary {
		c.members = append(c.members, &member{edge: edge, tunnel: o.Tunnel(edge), primary: true})
	}
	for _, edge := range o.Channel.Secondary {
		c.members = append(c.members, &member{edge: edge, tunnel: o.Tunnel(edge)})
	}
	c.update()
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.probes.Go(c.probe)
	return c
}

// Connect opens a stream to authority, "host:port", through an edge of the
// channel, and says which. Primaries take turns; secondaries serve while every
// primary fails. An edge that is not reached, or breaks off before its answer,
// hands over to the next at once; the answer of one stands, whatever it is: a
// *RefusedError of package tunnel. The error matches ErrDown if the channel is
// down: then only probes look whether an edge is back, and no flow waits for
// them.
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

// judge notes what a flow's CONNECT through m tells about it, and reports
// whether its outcome stands. An edge that was reached and gave no answer may
// have trouble with this one destination, which must not take the channel from
// all others: that is for the next probe to find out.
func (c *Channel) judge(ctx context.Context, m *member, err error) bool {
	_, asked := errors.AsType[*tunnel.StageError](err)
	switch {
	case isAnswer(err):
		c.answered(m)
		return true
	case !asked, ctx.Err() != nil, c.ctx.Err() != nil:
		return true // a malformed authority, or the flow or the channel was given up
	case !isReached(err):
		c.failed(m, err)
	}
	return false
}

// isAnswer reports whether err is what an edge that was reached answers.
func isAnswer(err error) bool {
	_, refused := errors.AsType[*tunnel.RefusedError](err)
	return err == nil || refused
}

// Status is a channel at one moment. Its texts are printable, however hostile
// the peers.
type Status struct {
	State      State
	Cause      string // of StateDown
	Since      time.Time
	Edge       string // "host:port" of the edge that answered last, unless it is lost since
	Protocol   string // of that edge's TCP flows, as ALPN spells it
	Diagnostic string // result of the last probe of diagnosticUri, unless the channel is down since
	Datagrams  Datagrams
}

// Status describes the channel as it is now.
func (c *Channel) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status()
}

func (c *Channel) status() Status {
	s := Status{State: c.state, Since: c.since, Diagnostic: printable(c.diagnostic), Datagrams: c.datagrams}
	if c.cause != nil {
		s.Cause = printable(c.cause.Error())
	}
	if c.last != nil && c.last.answered {
		s.Edge, s.Protocol = address(c.last.edge), c.last.tunnel.Protocol()
	}
	return s
}

// Close stops the probes and closes the tunnels, with every stream in them.
func (c *Channel) Close() error {
	c.cancel()
	c.probes.Wait()
	errs := make([]error, len(c.members))
	var closing sync.WaitGroup
	for i, m := range c.members {
		closing.Go(func() { errs[i] = m.tunnel.Close() })
	}
	closing.Wait()
	return errors.Join(errs...)
}

func address(e policy.Edge) string { return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))) }

// maxText bounds a text about a peer, in bytes.
const maxText = 256

// printable keeps a peer's words from ruling the terminal that shows them.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s[:min(len(s), maxText)])
	return strings.TrimSpace(s)
}
