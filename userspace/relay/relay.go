// Package relay carries acquired flows: it copies between an application's
// connection and a stream through an edge, and keeps what TCP means to both:
// a half-close is a half-close, a reset is a reset, and a reader that is slow
// slows its writer.
package relay

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// Stream is the edge's side of a flow. Its methods may be called concurrently,
// Read and Write each by one goroutine.
//
// Read returns io.EOF at the edge's half-close; every other error means that
// the stream was reset. An error of Write means that the edge takes no more:
// Read then still returns what the edge sent before, and after it io.EOF or an
// error. A Stream that is also an io.WriterTo is read by that, which saves the
// buffer that a Read would have to wait with.
type Stream interface {
	io.ReadWriter

	// CloseWrite ends the application's direction and leaves the other.
	CloseWrite() error

	// Reset aborts both directions and ends blocked calls.
	Reset() error

	// Close releases the stream, and resets it unless both directions have
	// ended. It is called once and last, also after Reset.
	Close() error
}

// Dialer opens the stream for a flow, through the channel of its rule.
type Dialer interface {
	// Connect returns once the edge has answered. The route is valid as far
	// as it is known also with an error; its status tells a refusal from an
	// edge that did not answer. Connect returns soon after ctx is done.
	Connect(ctx context.Context, rec flow.Record) (Stream, flow.Route, error)
}

// Causes of a reset, as a flow's record shows them.
var (
	errApplication = errors.New("application reset")
	errEdge        = errors.New("edge reset")
	errStopped     = errors.New("agent stopped")
)

// Options say what a Relay needs.
type Options struct {
	Dialer Dialer
	Flows  *flow.Table
	Log    *slog.Logger // nil discards
}

// Relay carries flows. Make one with New, end it with Drain.
type Relay struct {
	dialer  Dialer
	flows   *flow.Table
	log     *slog.Logger
	buffers buffers
	watch   *watch

	lingerPause    time.Duration
	halfClosePause time.Duration

	mu       sync.Mutex
	carried  map[uint64]*carriage // by the flow's ID
	draining bool
	stopped  bool          // every new flow is reset
	idle     chan struct{} // closed when draining and nothing is carried
}

// New returns a Relay. It owns one goroutine, which Drain ends.
func New(o Options) (*Relay, error) {
	r := &Relay{
		dialer:  o.Dialer,
		flows:   o.Flows,
		log:     o.Log,
		carried: make(map[uint64]*carriage),

		lingerPause:    lingerPause,
		halfClosePause: halfClosePause,
		idle:           make(chan struct{}),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if r.watch, err = newWatch(r.applicationReset); err != nil {
		return nil, err
	}
	return r, nil
}

// Carry opens a stream for the flow and copies both ways until both directions
// have ended, however long that takes, or one side resets. It owns conn. When
// ctx is done, both sides are reset.
//
// An application that closes in order while its edge is being dialed is not
// given up: it may have half-closed, and wait for an answer.
func (r *Relay) Carry(ctx context.Context, conn *net.TCPConn, rec flow.Record) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &carriage{
		application:    application{conn: conn, live: r.flows.Open(rec), buffers: &r.buffers},
		cancel:         cancel,
		lingerPause:    r.lingerPause,
		halfClosePause: r.halfClosePause,
	}
	r.add(c)
	outcome := r.carry(ctx, c, rec)
	c.live.Close(outcome)
	r.remove(c)
	r.report(ctx, c.live, outcome)
}

func (r *Relay) carry(ctx context.Context, c *carriage, rec flow.Record) flow.Outcome {
	stream, route, err := r.dialer.Connect(ctx, rec)
	c.live.SetRoute(route)
	if err == nil {
		c.stream = stream
		return c.carry(ctx)
	}
	c.reset()
	switch cause := context.Cause(ctx); {
	case cause != nil:
		return flow.Outcome{State: flow.StateReset, Cause: causeText(cause)}
	case route.Status != 0:
		return flow.Outcome{State: flow.StateRefused, Cause: err.Error()}
	}
	return flow.Outcome{State: flow.StateFailed, Cause: err.Error()}
}

// causeText says why a flow's context was canceled: by its carriage, or else
// by the caller of Carry.
func causeText(cause error) string {
	if errors.Is(cause, errApplication) || errors.Is(cause, errEdge) {
		return cause.Error()
	}
	return errStopped.Error()
}

// report writes the flow's one log line: a flow that an application wanted and
// did not get is worth a warning, the others are for debugging.
func (r *Relay) report(ctx context.Context, live *flow.Live, outcome flow.Outcome) {
	level := slog.LevelDebug
	if outcome.State == flow.StateRefused || outcome.State == flow.StateFailed {
		level = slog.LevelWarn
	}
	if !r.log.Enabled(ctx, level) {
		return
	}
	f := live.Flow()
	r.log.LogAttrs(ctx, level, "flow ended",
		slog.Uint64("flow", f.ID),
		slog.String("state", f.State.String()),
		slog.String("cause", f.Cause),
		slog.Int("status", f.Status),
		slog.String("orig_dst", f.OrigDst.String()),
		slog.String("name", f.Name),
		slog.String("rule", f.Rule),
		slog.String("channel", f.Channel),
		slog.String("edge", f.Edge),
		slog.Uint64("generation", uint64(f.Generation)),
		slog.Uint64("pid", uint64(f.PID)),
		slog.Uint64("bytes_sent", f.BytesSent),
		slog.Uint64("bytes_received", f.BytesReceived),
	)
}

// add registers the flow, so that Drain and the watch find it.
func (r *Relay) add(c *carriage) {
	r.mu.Lock()
	r.carried[c.live.ID()] = c
	stopped := r.stopped
	r.mu.Unlock()

	if stopped {
		c.cancel(errStopped)
	}
	if err := r.watch.add(c.application.conn, c.live.ID()); err != nil {
		// Its reset is then noticed at the next read or write.
		r.log.Debug("watch connection", slog.Uint64("flow", c.live.ID()), slog.Any("error", err))
	}
}

func (r *Relay) remove(c *carriage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.carried, c.live.ID())
	r.closeIfIdle()
}

// closeIfIdle tells Drain that nothing is carried. Flows may still come and go
// after that, until the listeners have stopped.
func (r *Relay) closeIfIdle() {
	if !r.draining || len(r.carried) != 0 {
		return
	}
	select {
	case <-r.idle:
	default:
		close(r.idle)
	}
}

// applicationReset ends a flow whose application has aborted its connection.
func (r *Relay) applicationReset(id uint64) {
	r.mu.Lock()
	c := r.carried[id]
	r.mu.Unlock()
	if c != nil {
		c.cancel(errApplication)
	}
}

// Drain waits until no flow is carried. When ctx is done it resets those that
// are left, waits for them, and returns their number. Call it after the
// listeners have stopped; a flow that comes later still is reset.
func (r *Relay) Drain(ctx context.Context) int {
	r.mu.Lock()
	r.draining = true
	r.closeIfIdle()
	r.mu.Unlock()

	select {
	case <-r.idle:
	case <-ctx.Done():
	}
	left := r.stop()
	<-r.idle
	r.watch.close()
	return left
}

// stop resets every flow, now and from now on, and returns how many there were.
func (r *Relay) stop() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	for _, c := range r.carried {
		c.cancel(errStopped)
	}
	return len(r.carried)
}
