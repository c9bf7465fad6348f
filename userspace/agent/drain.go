package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

const (
	drainInterval = time.Second // of telling the supervisor how far draining is

	// drainExtension is how long a stop takes from then on, at most, if that
	// was the last flow: the tasks' end is in it, and a busy host.
	drainExtension = 15 * time.Second
)

// streamInterval is how often draining looks whether connections of the packet path
// are left.
const streamInterval = 20 * time.Millisecond

// accept serves the listeners, and returns how to end that: new flows first, and
// then, by draining, those that are carried.
func (a *Agent) accept(ctx context.Context) (drain func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var serving sync.WaitGroup
	if a.listener != nil {
		serving.Go(func() { a.listener.Serve(ctx, a.carry) })
	}
	return func() {
		cancel()
		a.drain(func() {
			a.awaitStreams() // which keeps the lease, so it waits for nobody
			serving.Wait()
		})
	}
}

// drain gives the flows that were accepted the configured time to end, and resets
// the rest. Wait returns when all have ended.
func (a *Agent) drain(wait func()) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		wait()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(a.config.Load().Relay.Drain))
	defer cancel()
	a.awaitFlows(ctx, ended)
	left := a.flows.TotalsOf(flow.TCP).Active
	a.packets.hush()
	a.relay.Drain(ctx)
	if left > 0 {
		a.log.Warn("flows reset at stop", slog.Uint64("flows", left))
	}
	<-ended
}

// awaitStreams waits until no TCP flow of the packet path is carried. Until then the
// lease is kept for those that the host forwards: nothing but the lease tells
// their packets from those of new flows, which from the end of the lease on go by the
// hardening of their rules. Connections of the host's own sockets are known
// to belong to the relay anyway, and datagrams have no end to wait for.
func (a *Agent) awaitStreams() {
	if a.packets == nil {
		return
	}
	look := time.NewTicker(streamInterval)
	defer look.Stop()
	for {
		carried, forwarded := a.streams()
		var err error
		if forwarded {
			err = a.datapath.Maps.Renew(a.leasePeriod())
		} else {
			err = a.datapath.Maps.EndLease()
		}
		if err != nil {
			a.log.Error("renew lease", slog.Any("error", err))
		}
		if !carried {
			return
		}
		<-look.C
	}
}

// streams reports whether TCP flows of the packet path are carried, and whether there
// are some among them that the host forwards.
func (a *Agent) streams() (carried, forwarded bool) {
	for _, f := range a.flows.Snapshot() {
		if f.State == flow.StateActive && f.Protocol == flow.TCP && f.Source.IsValid() {
			carried, forwarded = true, forwarded || f.Forwarded
		}
	}
	return carried, forwarded
}

// awaitFlows waits until all flows have ended, or ctx is done. A flow that was
// just accepted may not have reached the relay, to which it would come too late
// once that drains.
func (a *Agent) awaitFlows(ctx context.Context, ended <-chan struct{}) {
	look := time.NewTicker(drainInterval)
	defer look.Stop()
	for {
		if flows := a.flows.Totals().Active; flows > 0 {
			a.notices.draining(flows, drainExtension)
		}
		select {
		case <-ended:
			return
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}
