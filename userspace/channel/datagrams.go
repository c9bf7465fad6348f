package channel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

// Datagrams says whether an edge, or any edge of a channel, carries UDP. That is
// learnt from flows: until one asks, it is not known.
type Datagrams uint8

// What may be known. The zero value is that nothing is.
const (
	DatagramsUnknown Datagrams = iota
	DatagramsCarried
	DatagramsRefused
)

// String returns "unknown", "yes" or "no".
func (d Datagrams) String() string {
	switch d {
	case DatagramsUnknown:
		return "unknown"
	case DatagramsCarried:
		return "yes"
	case DatagramsRefused:
		return "no"
	}
	return fmt.Sprintf("datagrams(%d)", uint8(d))
}

// datagramsPause is how long an edge that carries no UDP is believed, for it may
// be upgraded. Then a probe asks it.
const datagramsPause = time.Minute

// ConnectUDP opens a flow of datagrams to authority, "host:port", through an edge
// of the channel, and says which. Edges are chosen, and judged, as by Connect,
// but for those that carry no UDP. The error matches tunnel.ErrNoDatagrams if
// that leaves none, which Status tells from then on.
func (c *Channel) ConnectUDP(ctx context.Context, authority string) (tunnel.Datagrams, policy.Edge, error) {
	candidates, err := c.candidates()
	if err != nil {
		return nil, policy.Edge{}, err
	}
	var edge policy.Edge
	err = tunnel.ErrNoDatagrams
	for _, m := range candidates {
		if c.carriage(m) == DatagramsRefused {
			continue
		}
		edge = m.edge
		flow, failure := m.tunnel.ConnectUDP(ctx, authority)
		c.carries(m, failure)
		if c.judge(ctx, m, failure) && !errors.Is(failure, tunnel.ErrNoDatagrams) {
			return flow, edge, failure
		}
		err = failure
	}
	return nil, edge, err
}

// carriage is what is known of an edge.
func (c *Channel) carriage(m *member) Datagrams {
	c.mu.Lock()
	defer c.mu.Unlock()
	return m.datagrams
}

// carries notes what the outcome of a CONNECT-UDP tells about an edge. One without
// an answer tells nothing.
func (c *Channel) carries(m *member, err error) {
	known := DatagramsCarried
	switch {
	case errors.Is(err, tunnel.ErrNoDatagrams):
		known = DatagramsRefused
	case !isAnswer(err):
		return
	}
	var news bool
	c.note(func() {
		news = m.datagrams != known
		m.datagrams, m.datagramsAsked = known, time.Now()
	})
	if !news {
		return
	}
	edge := slog.String("edge", address(m.edge))
	if known == DatagramsRefused {
		c.log.Warn("edge carries no datagrams", edge)
	} else {
		c.log.Info("edge carries datagrams", edge)
	}
}

// probeDatagrams asks an edge that carried no UDP whether it has learnt to.
func (c *Channel) probeDatagrams(ctx context.Context, m *member) {
	c.mu.Lock()
	due := m.datagrams == DatagramsRefused && time.Since(m.datagramsAsked) >= datagramsPause
	c.mu.Unlock()
	if !due {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, probeTimeout, errNoAnswer)
	defer cancel()
	flow, err := m.tunnel.ConnectUDP(ctx, ownLoopback)
	c.carries(m, err)
	if err == nil {
		flow.Close()
	}
}

// knownDatagrams is what is known of the channel: that its edges carry no UDP when
// that is known of all that are not lost. The caller holds the lock.
func (c *Channel) knownDatagrams() Datagrams {
	live := slices.DeleteFunc(slices.Clone(c.members), (*member).lost)
	if len(live) == 0 {
		live = c.members
	}
	least := DatagramsRefused
	for _, m := range live {
		if m.datagrams == DatagramsCarried {
			return DatagramsCarried
		}
		least = min(least, m.datagrams)
	}
	if len(live) == 0 {
		return DatagramsUnknown
	}
	return least
}
