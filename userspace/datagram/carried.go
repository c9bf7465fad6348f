package datagram

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

const (
	// queueSize bounds the datagrams of a flow that wait for the answer of its edge,
	// and waitingSize those of all flows, in bytes. One costs waitingCost besides its
	// payload, which may be empty.
	queueSize   = 256 << 10
	waitingSize = 32 << 20
	waitingCost = 64

	// streamAnswers is how often a flow is answered that is a stream.
	streamAnswers = 2

	// spentKept is how long a flow that no edge took keeps datagrams from asking
	// the edge again.
	spentKept = time.Second

	// looks is how often expired flows are looked for within their time.
	looks = 2
)

// carried is one flow.
type carried struct {
	relay  *Relay
	key    Key
	target target // of replies
	live   *flow.Live
	cancel context.CancelFunc

	used    atomic.Int64  // when it last carried a datagram, by the relay's time
	answers atomic.Int32  // up to streamAnswers
	spent   atomic.Bool   // no edge took it
	tallied atomic.Uint64 // what has been counted of what its Datagrams dropped

	mu        sync.Mutex
	datagrams Datagrams // nil until the edge has answered
	over      bool
	queue     [][]byte
	queued    int // what the queue costs
}

// take hands on what a receiving socket got.
func (r *Relay) take(a arrival) {
	f := r.flows.find(a.key)
	if f == nil {
		f = r.begin(a.key)
	}
	if f == nil {
		r.dropped.Add(uint64(len(a.batch)))
		return
	}
	f.send(a.batch)
}

// begin adds a flow, or returns nil where there is no room.
func (r *Relay) begin(key Key) *carried {
	now := r.now()
	f, fresh, evicted := r.flows.add(key, now, func() *carried {
		f := &carried{relay: r, key: key}
		f.target.aim(key)
		f.used.Store(now)
		f.mu.Lock() // until all of it is there
		return f
	})
	for _, old := range evicted {
		old.end(errEvicted)
	}
	if !fresh {
		return f
	}
	defer f.mu.Unlock()
	rec := r.opts.Describe(key)
	f.live = r.opts.Flows.Open(rec)
	ctx, cancel := context.WithCancel(r.ctx)
	f.cancel = cancel
	r.carried.Go(func() { f.carry(ctx, rec) })
	return f
}

// carry is the life of a flow.
func (f *carried) carry(ctx context.Context, rec flow.Record) {
	defer f.cancel()
	datagrams, route, err := f.relay.opts.Dialer.Dial(ctx, rec)
	f.live.SetRoute(route)
	if err != nil {
		f.fail(ctx, route, err)
		return
	}
	if f.open(datagrams) {
		err = datagrams.Receive(f.answer)
	}
	datagrams.Close()
	f.relay.end(f, err)
}

// open sends what has waited. It reports false where the flow has ended meanwhile.
func (f *carried) open(datagrams Datagrams) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return false
	}
	f.datagrams = datagrams
	if len(f.queue) > 0 {
		// The error is Receive's, too.
		_ = datagrams.Send(f.queue)
		f.tally(datagrams)
	}
	f.forget()
	return true
}

// fail keeps the flow for a moment, so that not each datagram asks the edge again.
func (f *carried) fail(ctx context.Context, route flow.Route, err error) {
	if ctx.Err() != nil { // who ended it has said why
		f.relay.end(f, context.Cause(ctx))
		return
	}
	o := flow.Outcome{State: flow.StateFailed, Cause: err.Error()}
	if route.Status != 0 {
		o.State = flow.StateRefused
	}
	f.mu.Lock()
	f.over = true
	f.forget()
	f.mu.Unlock()
	f.spent.Store(true)
	f.used.Store(f.relay.now())
	f.live.Close(o)
	f.relay.failed.Add(1)
	level := slog.LevelWarn
	if errors.Is(err, ErrUncarried) {
		level = slog.LevelDebug
	}
	f.relay.log.LogAttrs(ctx, level, "flow ended",
		slog.Uint64("flow", f.live.ID()), slog.String("protocol", "udp"), slog.String("state", o.State.String()),
		slog.String("cause", o.Cause), slog.Int("status", route.Status), slog.String("orig_dst", f.key.OrigDst.String()),
		slog.String("name", route.Name), slog.String("rule", route.Rule), slog.String("channel", route.Channel),
		slog.String("edge", route.Edge))
}

// send hands datagrams to the edge, or has them wait for it.
func (f *carried) send(batch [][]byte) {
	size := 0
	for _, p := range batch {
		size += len(p)
	}
	f.mu.Lock()
	datagrams, over := f.datagrams, f.over
	if datagrams == nil && !over {
		f.wait(batch)
	}
	f.mu.Unlock()
	if over {
		f.relay.dropped.Add(uint64(len(batch)))
		return
	}
	f.used.Store(f.relay.now())
	f.live.AddSentDatagrams(len(batch), size)
	if datagrams != nil {
		// The error is Receive's, too.
		_ = datagrams.Send(batch)
		f.tally(datagrams)
	}
}

// tally counts what has been dropped since the last time.
func (f *carried) tally(datagrams Datagrams) {
	dropped := datagrams.Dropped()
	for before := f.tallied.Load(); dropped > before; before = f.tallied.Load() {
		if f.tallied.CompareAndSwap(before, dropped) {
			f.relay.dropped.Add(dropped - before)
			return
		}
	}
}

// wait queues copies, at the cost of the oldest. The caller holds f.mu.
func (f *carried) wait(batch [][]byte) {
	waiting := &f.relay.waiting
	for _, p := range batch {
		cost := len(p) + waitingCost
		f.queue = append(f.queue, bytes.Clone(p))
		f.queued += cost
		waiting.Add(int64(cost))
		for len(f.queue) > 0 && (f.queued > queueSize || waiting.Load() > waitingSize) {
			cost := len(f.queue[0]) + waitingCost
			f.queue = f.queue[1:]
			f.queued -= cost
			waiting.Add(int64(-cost))
			f.relay.dropped.Add(1)
		}
	}
}

// forget empties the queue. The caller holds f.mu.
func (f *carried) forget() {
	f.relay.waiting.Add(int64(-f.queued))
	f.queue, f.queued = nil, 0
}

// answer sends to the application what came from the edge.
func (f *carried) answer(batch [][]byte) {
	f.used.Store(f.relay.now())
	if f.answers.Load() < streamAnswers {
		f.answers.Add(1)
	}
	sent, size := f.relay.replies.send(&f.target, batch)
	f.live.AddReceivedDatagrams(sent, size)
	if dropped := len(batch) - sent; dropped > 0 {
		f.relay.dropped.Add(uint64(dropped))
	}
}

// patience is for how long the flow may carry nothing.
func (f *carried) patience(l Limits) time.Duration {
	switch {
	case f.spent.Load():
		return spentKept
	case f.answers.Load() >= streamAnswers:
		return l.StreamIdle
	}
	return l.Idle
}

// end takes a flow out of the table and ends it.
func (r *Relay) end(f *carried, cause error) {
	r.flows.remove(f)
	f.end(cause)
}

// end ends a flow that is out of the table. Only the first cause counts.
func (f *carried) end(cause error) {
	f.mu.Lock()
	datagrams := f.datagrams
	first := !f.over
	f.over = true
	f.forget()
	f.mu.Unlock()
	if first {
		f.relay.replies.release(&f.target)
	}
	o := flow.Outcome{State: flow.StateClosed}
	if cause != nil && !errors.Is(cause, io.EOF) && !errors.Is(cause, errIdle) {
		o = flow.Outcome{State: flow.StateReset, Cause: cause.Error()}
	}
	f.live.Close(o)
	f.cancel()
	if datagrams != nil {
		datagrams.Close()
		f.tally(datagrams)
	}
}

// age ends the flows that are idle for too long, until ctx is done.
func (r *Relay) age(ctx context.Context) {
	look := time.NewTicker(max(min(r.flows.limits.Idle, r.flows.limits.StreamIdle, spentKept)/looks, time.Millisecond))
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		for _, f := range r.flows.expire(r.now()) {
			f.end(errIdle)
		}
	}
}
