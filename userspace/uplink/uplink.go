// Package uplink finds the devices through which a host's packets to Tunnel
// destinations leave, and follows them as they come and go.
package uplink

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/bpfacq/bpfacq/userspace/rtnetlink"
)

const (
	// pause is how long changes are gathered after some were heeded: a device
	// comes with addresses and routes.
	pause = 50 * time.Millisecond

	// share is how much longer than a look the pause after it is at least: on a
	// router with many routes looks take long, and changes do not end.
	share = 10

	// linger is how long a device stays an uplink that has lost its routes: as long as
	// a cable is out for a moment, flows need their enclave. While it is down, or without
	// a carrier, it stays, for when it is back its packets are not to go before the enclave is.
	linger = 15 * time.Second

	// retry is how long after a look that failed another one is made.
	retry = 5 * time.Second

	// dumps is how often a list is asked for that changes while it is read.
	dumps = 5
)

// Auto stands for the devices that the routes name.
const Auto = "auto"

// Uplink is a device through which packets leave the host.
type Uplink struct {
	Index int
	Name  string
	MTU   int              // bytes
	MAC   net.HardwareAddr // nil if L3
	L3    bool             // packets have no link-layer header: tun, WireGuard, ppp
	Away  bool             // nothing leaves by it at present: it is down, or has lost its carrier or routes
}

// Options say which devices are uplinks.
type Options struct {
	// Devices are names of devices. Empty, or Auto alone, are the devices that
	// carry a default route or a route to one of Prefixes.
	Devices []string

	// Prefixes returns where the policy in force tunnels to. It is called from
	// Uplinks and Run, which do not change the result. Nil is nowhere.
	Prefixes func() []netip.Prefix

	Log *slog.Logger
}

// Watcher follows the uplinks of a network namespace.
type Watcher struct {
	opts    Options
	events  *rtnetlink.Events
	handle  *netlink.Handle
	changed chan struct{} // holds one token once something has
	linger  time.Duration
	until   map[int]time.Time // by index, of uplinks: how long one stays that is wanted no more, zero if it is
}

// Open subscribes to changes of devices and routes of the calling thread's
// network namespace. The caller runs the Watcher and closes it.
func Open(opts Options) (*Watcher, error) {
	events, err := rtnetlink.Subscribe(rtnetlink.Links | rtnetlink.Routes)
	if err != nil {
		return nil, err
	}
	handle, err := rtnetlink.Open()
	if err != nil {
		return nil, errors.Join(err, events.Close())
	}
	return &Watcher{
		opts: opts, events: events, handle: handle, linger: linger,
		changed: make(chan struct{}, 1), until: make(map[int]time.Time),
	}, nil
}

// Close releases what Open has opened. It is not called while Run runs.
func (w *Watcher) Close() error {
	w.handle.Close()
	return w.events.Close()
}

// Look makes Run look again soon, as after a change of Prefixes.
func (w *Watcher) Look() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// Run delivers all uplinks, by index, at first and after every change of a device
// or route, even one that leaves them as they were: somebody may have removed a
// program. It returns when ctx is done, which is no error. deliver is not called
// concurrently.
func (w *Watcher) Run(ctx context.Context, deliver func([]Uplink)) error {
	ctx, cancel := context.WithCancel(ctx)
	var listening sync.WaitGroup
	var lost error
	listening.Go(func() {
		defer cancel()
		lost = w.listen(ctx)
	})
	for ctx.Err() == nil {
		began := time.Now()
		current, err := w.Uplinks()
		took := time.Since(began)
		if err != nil {
			w.opts.Log.Warn("follow uplinks", slog.Any("error", err))
		} else {
			deliver(current)
		}
		w.rest(ctx, max(pause, share*took), err != nil)
	}
	cancel()
	listening.Wait()
	return lost
}

// listen notes changes until ctx is done.
func (w *Watcher) listen(ctx context.Context) error {
	for {
		if err := w.events.Wait(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		w.Look()
	}
}

// rest returns when there is something to look at, after a time at the earliest.
// After a look that failed there is soon, whatever changes.
func (w *Watcher) rest(ctx context.Context, least time.Duration, failed bool) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(least):
	}
	var over <-chan time.Time // when a device has lingered long enough
	ends := slices.DeleteFunc(slices.Collect(maps.Values(w.until)), time.Time.IsZero)
	if len(ends) > 0 {
		over = time.After(max(time.Until(slices.MinFunc(ends, time.Time.Compare)), 0))
	}
	var again <-chan time.Time
	if failed {
		again = time.After(retry)
	}
	select {
	case <-ctx.Done():
	case <-w.changed:
	case <-over:
	case <-again:
	}
}
