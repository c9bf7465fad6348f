package channel

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// An edge that fails is left alone for a while that doubles with each failure,
// up to the probe interval. It counts as lost after some failures in a row, so
// that one lost connection does not take a channel down.
const (
	firstBackoff = 500 * time.Millisecond
	failuresLost = 2
)

// member is one edge of a channel. The channel's lock guards it.
type member struct {
	edge    policy.Edge
	tunnel  Tunneler
	primary bool

	answered bool // at least once since it was last lost
	failures int  // in a row
	retryAt  time.Time
	err      error
}

func (m *member) lost() bool {
	return m.failures >= failuresLost || m.failures > 0 && !m.answered
}

// candidates are the edges to try for a flow, in order: the primaries that are
// worth a try, taking turns, then the secondaries.
func (c *Channel) candidates() ([]*member, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	var primaries, secondaries []*member
	for _, m := range c.members {
		switch {
		case m.retryAt.After(now):
		case m.primary:
			primaries = append(primaries, m)
		default:
			secondaries = append(secondaries, m)
		}
	}
	if len(primaries)+len(secondaries) == 0 {
		if c.cause != nil {
			return nil, fmt.Errorf("%w: %w", ErrDown, c.cause)
		}
		return nil, ErrDown
	}
	if n := len(primaries); n > 0 {
		turn := c.next % n
		c.next++
		primaries = slices.Concat(primaries[turn:], primaries[:turn])
	}
	return append(primaries, secondaries...), nil
}

// answered notes that an edge is reached and well.
func (c *Channel) answered(m *member) {
	c.mu.Lock()
	recovered := m.failures > 0
	m.answered, m.failures, m.retryAt, m.err = true, 0, time.Time{}, nil
	c.inUse = m
	changed := c.update()
	c.mu.Unlock()
	if recovered {
		c.log.Info("edge answers again", slog.String("edge", address(m.edge)))
	}
	c.report(changed)
}

// failed notes that an edge could not be reached.
func (c *Channel) failed(m *member, err error) {
	c.mu.Lock()
	m.failures++
	m.err = err
	if m.lost() {
		m.answered = false
	}
	backoff := min(firstBackoff<<min(m.failures-1, 16), c.opts.ProbeInterval)
	m.retryAt = time.Now().Add(jitter(backoff))
	first := m.failures == 1
	changed := c.update()
	c.mu.Unlock()
	if first {
		c.log.Warn("edge not reached", slog.String("edge", address(m.edge)), slog.Any("error", err))
	}
	c.report(changed)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// update derives the channel's state from its edges', and reports whether it
// has changed. The caller holds the lock.
func (c *Channel) update() bool {
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
	if state != StateDown {
		cause = nil
	} else if cause == nil {
		cause = ErrDown // it has no edge at all
	}
	changed := state != c.state
	if changed {
		c.state, c.since = state, time.Now()
	}
	c.cause = cause
	return changed
}

func (c *Channel) report(changed bool) {
	if !changed {
		return
	}
	s := c.Status()
	c.log.Info("channel state", slog.String("state", s.State.String()), slog.String("cause", s.Cause))
	if c.opts.OnState != nil {
		c.opts.OnState()
	}
}

// jitter spreads a duration by a tenth, so that many hosts do not ask an edge
// at the same moment.
func jitter(d time.Duration) time.Duration {
	return d - d/20 + rand.N(d/10+1)
}
