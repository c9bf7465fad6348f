// Package datagram relays UDP: it receives the datagrams that the packet path
// leads into an enclave, opens a flow to an edge for each source and original
// destination, and sends what comes back from that destination's address.
//
// One goroutine for each receiving socket hands datagrams on as they come; a
// flow has one goroutine, which waits for what its edge sends. Nobody waits for
// an edge that takes no more: datagrams are dropped, as a network does.
//
// Answers are of traffic class 0, not ECN-capable: CONNECT-UDP (RFC 9298) carries
// payloads alone, and so a mark of congestion would be lost on its way.
package datagram

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// Defaults of [Limits].
const (
	DefaultFlows      = 1 << 16
	DefaultIdle       = 30 * time.Second
	DefaultStreamIdle = 180 * time.Second
)

// maxWorkers is more than what feeds an edge: all flows of a channel end in few
// connections.
const maxWorkers = 8

// Datagrams is what carries one flow to its edge.
type Datagrams interface {
	// Send takes whole UDP payloads, and keeps none of them. It drops what there
	// is no room for, and never waits. An error says that the flow is over.
	Send(batch [][]byte) error

	// Dropped is how many datagrams there was no room for so far, either way.
	Dropped() uint64

	// Receive hands out what arrives until the flow is over; io.EOF says that it
	// ended in order. A batch is valid while deliver runs.
	Receive(deliver func(batch [][]byte)) error

	// Close ends the flow, and Receive.
	Close() error
}

// Dialer opens what carries flows, through the channel of their rule.
type Dialer interface {
	// Dial returns once the edge has answered. The route is valid as far as it is
	// known also with an error. Dial returns soon after ctx is done.
	Dial(ctx context.Context, rec flow.Record) (Datagrams, flow.Route, error)
}

// Namespace is a network namespace. *netns.Namespace is one.
type Namespace interface {
	// Do runs f on a thread that is in the namespace.
	Do(f func() error) error
}

// Key tells flows apart.
type Key struct {
	Source  netip.AddrPort // as the relay sees it; IPv4 is never IPv4-mapped
	OrigDst netip.AddrPort // the original destination, likewise
}

// Limits bound what a relay keeps. A zero one is its default.
type Limits struct {
	Flows      int           // at once
	Idle       time.Duration // how long a flow is kept that carries nothing
	StreamIdle time.Duration // the same of one that was answered more than once, as conntrack has it
}

// Options say what a Relay needs.
type Options struct {
	Namespace Namespace // where datagrams arrive: there every destination is local
	Dialer    Dialer
	Flows     *flow.Table

	// Describe returns the record of a flow that begins; nil is one of its key
	// alone. It is called by who receives, and must not block for long.
	Describe func(Key) flow.Record

	Workers int // receiving sockets of each family; 0 is one for each processor, up to 8
	Limits  Limits
	Log     *slog.Logger // nil discards
}

// Relay relays the datagrams of one enclave.
type Relay struct {
	opts    Options
	log     *slog.Logger
	begun   time.Time
	flows   *table
	replies *replies
	intakes []*intake     // of IPv4, then of IPv6
	waiting atomic.Int64  // what all queues cost
	dropped atomic.Uint64 // datagrams
	failed  atomic.Uint64 // flows

	ctx     context.Context // of the flows
	cancel  context.CancelCauseFunc
	carried sync.WaitGroup
	close   sync.Once
}

// ErrUncarried says, as an error of a [Dialer], that no edge carries UDP at all: whoever
// knows of that has logged it, and the flows need not.
var ErrUncarried = errors.New("no edge carries UDP")

var (
	errStopped = errors.New("agent stopped")
	errPolicy  = errors.New("policy changed")
	errEvicted = errors.New("evicted for another flow")
	errIdle    = errors.New("idle")
)

// Open opens the sockets of a relay. The caller serves and closes it.
func Open(o Options) (_ *Relay, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Workers <= 0 {
		o.Workers = min(runtime.GOMAXPROCS(0), maxWorkers)
	}
	if o.Describe == nil {
		o.Describe = func(key Key) flow.Record {
			return flow.Record{Protocol: flow.UDP, Source: key.Source, OrigDst: key.OrigDst}
		}
	}
	r := &Relay{
		opts: o, log: o.Log, begun: time.Now(),
		flows: newTable(o.Limits), replies: newReplies(o.Namespace),
	}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	if err := o.Namespace.Do(r.listen); err != nil {
		return nil, errors.Join(fmt.Errorf("open relay of datagrams: %w", err), r.Close())
	}
	return r, nil
}

// listen opens the receiving sockets in the calling thread's namespace. IPv6 may
// be missing there.
func (r *Relay) listen() error {
	for _, f := range []family{ipv4, ipv6} {
		var port uint16
		for i := range r.opts.Workers {
			in, err := listen(f, port)
			if f == ipv6 && i == 0 && noFamily(err) {
				return nil
			}
			if err != nil {
				return err
			}
			port = in.port
			r.intakes = append(r.intakes, in)
		}
	}
	return nil
}

// Sockets are the file descriptors of one receiving socket of each family, 0 for
// one that the namespace does not have. What is handed to it is spread over all
// of its family (SO_REUSEPORT).
func (r *Relay) Sockets() (udp4, udp6 int) {
	for _, in := range r.intakes {
		switch {
		case in.family == ipv4 && udp4 == 0:
			udp4 = in.fd
		case in.family == ipv6 && udp6 == 0:
			udp6 = in.fd
		}
	}
	return udp4, udp6
}

// Serve relays until ctx is done or the relay is closed. The error is that of a
// receiving socket.
func (r *Relay) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var serving sync.WaitGroup
	failed := make(chan error, len(r.intakes))
	for _, in := range r.intakes {
		serving.Go(func() {
			if err := in.receive(r.take); err != nil {
				failed <- err
			}
		})
	}
	serving.Go(func() { r.age(ctx) })

	var err error
	select {
	case <-ctx.Done():
	case <-r.ctx.Done():
	case err = <-failed:
	}
	cancel()
	for _, in := range r.intakes {
		in.stop()
	}
	serving.Wait()
	return err
}

// Judge ends the flows that keep does not want: after a change of policy those
// that would be taken another way now.
func (r *Relay) Judge(keep func(Key) bool) {
	for _, f := range r.flows.all() {
		if !keep(f.key) {
			r.end(f, errPolicy)
		}
	}
}

// Stats counts what a relay keeps and what happened since it was opened.
type Stats struct {
	Flows   int // that are kept
	Sockets int // that replies are sent from

	Expired uint64 // flows that were idle for too long
	Evicted uint64 // idle flows that made room for others
	Refused uint64 // flows for which there was no room
	Failed  uint64 // flows that no edge took
	Dropped uint64 // datagrams for which there was no room, or no flow
}

// Stats returns the figures of this moment.
func (r *Relay) Stats() Stats {
	s := r.flows.stats()
	s.Sockets, s.Dropped, s.Failed = r.replies.count(), r.dropped.Load(), r.failed.Load()
	return s
}

// Close ends all flows and closes all sockets. Closing again does nothing.
func (r *Relay) Close() error {
	var errs []error
	r.close.Do(func() {
		r.cancel(errStopped)
		for _, f := range r.flows.shut() {
			f.end(errStopped)
		}
		for _, in := range r.intakes {
			errs = append(errs, in.close())
		}
		r.carried.Wait()
		errs = append(errs, r.replies.close())
	})
	return errors.Join(errs...)
}

// now is the time by which flows age: monotonic, in nanoseconds.
func (r *Relay) now() int64 { return int64(time.Since(r.begun)) }
