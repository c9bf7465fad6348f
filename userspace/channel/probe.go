package channel

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

// probeTimeout bounds one question to an edge, from the connection to the end
// of the answer.
const probeTimeout = 5 * time.Second

// ownLoopback is what an edge is asked for to see whether it answers at all: a
// literal, so that its resolver has no part in that, which it refuses by its
// rules or because nobody listens there.
const ownLoopback = "127.0.0.1:9"

// probe looks after the edges until Close: at once while no edge is known to
// answer, those that fail when their pause ends, and those in use at each
// interval.
func (c *Channel) probe() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for c.ctx.Err() == nil {
		c.probeDue()
		timer.Reset(time.Until(c.nextProbe()))
		select {
		case <-c.ctx.Done():
		case <-timer.C:
		case <-c.wake:
		}
	}
}

// probeDue probes the edges that are due, until each has answered or Retry wants
// them asked anew.
func (c *Channel) probeDue() {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	c.mu.Lock()
	c.abandon = cancel
	c.mu.Unlock()
	var round sync.WaitGroup
	for _, m := range c.due() {
		round.Go(func() { c.probeEdge(ctx, m) })
	}
	round.Wait()
}

// Retry probes at once: the edges in use and those that have failed, which then
// pause as after their first failures. It is for who knows that the network has changed,
// as when a device is back, and does not block.
func (c *Channel) Retry() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick = time.Now()
	for _, m := range c.members {
		m.retryAt = time.Time{}
		m.failures = min(m.failures, failuresLost)
	}
	c.abandon()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// due are the edges that are to be probed now. Those in use are those that
// flows have tried first since the last time, and that one which the next flow
// will.
func (c *Channel) due() []*member {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	var next *member
	ticked := c.state == StateConnecting || !c.tick.After(now)
	if ticked {
		c.tick = now.Add(jitter(c.opts.ProbeInterval))
		if ranked := c.ranked(); len(ranked) > 0 {
			next = ranked[0]
		}
	}
	var due []*member
	for _, m := range c.members {
		failing := m.failures > 0
		switch {
		case failing && !m.retryAt.After(now), !failing && ticked && (m.used || m == next):
			m.used = false
			due = append(due, m)
		}
	}
	return due
}

// nextProbe is when an edge is due, unless one fails before.
func (c *Channel) nextProbe() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.tick
	for _, m := range c.members {
		if m.failures > 0 && m.retryAt.Before(next) {
			next = m.retryAt
		}
	}
	return next
}

// probeEdge finds out whether an edge answers. It is asked for the host of
// diagnosticUri, if there is one. An edge that is reached and has no answer to
// that may be waiting for that host, so it is then asked for itself: any answer
// shows that it is well.
func (c *Channel) probeEdge(ctx context.Context, m *member) {
	var diagnostic string
	var err error
	if c.uri != nil {
		diagnostic, err = c.askDiagnosticHost(ctx, m)
	}
	if c.uri == nil || err != nil && isReached(err) {
		err = c.askEdge(ctx, m)
	}
	switch {
	case ctx.Err() != nil: // Close or Retry, not the edge, ended the probe
		c.mu.Lock()
		m.used = true
		c.mu.Unlock()
	case err != nil:
		c.failed(m, err)
	default:
		c.mu.Lock()
		c.diagnostic = diagnostic
		c.mu.Unlock()
		c.probeDatagrams(ctx, m)
	}
}

// askDiagnosticHost asks an edge for the host of diagnosticUri. What comes of
// it is for people to see; the error says that the edge gave no answer.
func (c *Channel) askDiagnosticHost(ctx context.Context, m *member) (diagnostic string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, probeTimeout, errNoAnswer)
	defer cancel()
	stream, err := m.tunnel.Connect(ctx, authority(c.uri))
	if !isAnswer(err) {
		return err.Error(), err
	}
	c.answered(m)
	if err != nil {
		return err.Error(), nil
	}
	defer stream.Close()
	return c.fetch(ctx, stream), nil
}

// askEdge asks an edge for an answer, and nothing more.
func (c *Channel) askEdge(ctx context.Context, m *member) error {
	ctx, cancel := context.WithTimeoutCause(ctx, probeTimeout, errNoAnswer)
	defer cancel()
	stream, err := m.tunnel.Connect(ctx, ownLoopback)
	if !isAnswer(err) {
		return err
	}
	c.answered(m)
	if err == nil {
		stream.Close()
	}
	return nil
}

// isReached reports whether err, of a CONNECT without an answer, came after the
// edge was reached.
func isReached(err error) bool {
	stage, ok := errors.AsType[*tunnel.StageError](err)
	return !ok || stage.Stage >= tunnel.StageConnect
}
