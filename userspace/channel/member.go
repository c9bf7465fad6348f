package channel

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// An edge that fails is left to the probes, after a pause that doubles with
// each failure, up to the probe interval. It counts as lost after some failures
// in a row, so that one lost connection does not take a channel down.
const (
	firstBackoff = 500 * time.Millisecond
	maxBackoff   = 30 * time.Second // however seldom the profile wants probes
	failuresLost = 2
)

// member is one edge of a channel. The channel's lock guards what changes.
type member struct {
	edge    policy.Edge
	tunnel  Tunneler
	primary bool

	used     bool // by a flow since the last tick
	answered bool // at least once since it was last lost
	failures int  // in a row
	retryAt  time.Time
	err      error

	datagrams      Datagrams
	datagramsAsked time.Time // when that was learnt
}

func (m *member) lost() bool {
	return m.failures >= failuresLost || m.failures > 0 && !m.answered
}

// candidates are the edges that a flow tries, in order. There is at least one
// unless the channel is down.
func (c *Channel) candidates() ([]*member, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == StateDown {
		return nil, fmt.Errorf("%w: %w", ErrDown, c.cause)
	}
	ranked := c.ranked()
	ranked[0].used = true
	c.next++
	return ranked, nil
}

// ranked are the edges that are not lost, the best first: the primaries, taking
// turns, then the secondaries, then those that have just failed. The caller
// holds the lock.
func (c *Channel) ranked() []*member {
	var primaries, secondaries, failing []*member
	for _, m := range c.members {
		switch {
		case m.lost():
		case m.failures > 0:
			failing = append(failing, m)
		case m.primary:
			primaries = append(primaries, m)
		default:
			secondaries = append(secondaries, m)
		}
	}
	turn := c.next % max(1, len(primaries))
	return slices.Concat(primaries[turn:], primaries[:turn], secondaries, failing)
}

// answered notes that an edge is reached and well.
func (c *Channel) answered(m *member) {
	var recovered bool
	c.note(func() {
		recovered = m.failures > 0
		m.answered, m.failures, m.retryAt, m.err = true, 0, time.Time{}, nil
		c.last = m
	})
	if recovered {
		c.log.Info("edge answers again", slog.String("edge", address(m.edge)))
	}
}

// failed notes that an edge gave no answer. What many flows meet during one
// pause is one failure.
func (c *Channel) failed(m *member, err error) {
	var failures int
	c.note(func() {
		now := time.Now()
		if m.retryAt.After(now) {
			return
		}
		m.failures++
		m.err = err
		m.answered = m.answered && !m.lost()
		backoff := min(firstBackoff<<min(m.failures-1, 16), c.opts.ProbeInterval, maxBackoff)
		m.retryAt = now.Add(jitter(backoff))
		failures = m.failures
	})
	if failures == 0 {
		return
	}
	if failures == 1 {
		c.log.Warn("edge not reached", slog.String("edge", address(m.edge)), slog.Any("error", err))
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// note changes what is known of the edges, and tells what that means for the
// channel.
func (c *Channel) note(change func()) {
	c.mu.Lock()
	before := c.status()
	change()
	c.update()
	s := c.status()
	c.mu.Unlock()
	if s.State != before.State {
		c.log.Info("channel state", slog.String("state", s.State.String()), slog.String("cause", s.Cause))
	} else if s.Datagrams == before.Datagrams {
		return
	}
	if c.opts.OnState != nil {
		c.opts.OnState()
	}
}

// update derives the channel's state from its edges'. The caller holds the
// lock.
func (c *Channel) update() {
	state, cause := StateDown, error(nil)
	for _, m := range c.members {
		if m.answered {
			state = StateUp
			break
		}
		if !m.lost() {
			state = StateConnecting
		}
		if cause == nil && m.err != nil {
			cause = fmt.Errorf("%s: %w", address(m.edge), m.err)
		}
	}
	switch {
	case state != StateDown:
		cause = nil
	case cause == nil:
		cause = errNoEdges
	}
	if state == StateDown {
		c.diagnostic = "" // what it says is not true any more
	}
	if state != c.state {
		c.state, c.since = state, time.Now()
	}
	c.cause = cause
	c.datagrams = c.knownDatagrams()
}

// jitter spreads a duration by a tenth, so that many hosts do not ask an edge
// at the same moment.
func jitter(d time.Duration) time.Duration {
	return d - d/20 + rand.N(d/10+1)
}
