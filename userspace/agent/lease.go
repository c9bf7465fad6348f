package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/bpfacq/bpfacq/maps"
)

// heartbeats is how many renewals fit into one lease: one late one, or one lost
// to a busy host, does not end it.
const heartbeats = 4

// leaseEnd is when a lease that begins now ends.
func (a *Agent) leaseEnd() (time.Duration, error) {
	now, err := maps.Monotonic()
	return now + a.leasePeriod(), err
}

// learnDelay is how long after a policy came into force, or an agent, datagrams from
// the network may still be answers to flows that were direct until then. See
// maps.SetLearnFrom.
const learnDelay = 3 * time.Second

// learnFrom is when learning begins if a policy comes into force now.
func learnFrom() (time.Duration, error) {
	now, err := maps.Monotonic()
	return now + learnDelay, err
}

// learnLater puts learning off, if there is a packet path.
func (a *Agent) learnLater() error {
	if a.packets == nil {
		return nil
	}
	from, err := learnFrom()
	if err != nil {
		return err
	}
	return a.datapath.Maps.SetLearnFrom(from)
}

func (a *Agent) leasePeriod() time.Duration { return time.Duration(a.config.Load().Kernel.Lease) }

// heartbeat renews the lease until ctx is done. From then on, or if this
// process ends in any other way, each rule's hardening holds within the lease.
func (a *Agent) heartbeat(ctx context.Context) error {
	ticker := time.NewTicker(a.leasePeriod() / heartbeats)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := a.datapath.Maps.Renew(a.leasePeriod()); err != nil {
			a.log.Error("renew lease", slog.Any("error", err))
		}
	}
}

// keepLease renews the lease while the agent's tasks end, until stop: packets of the
// flows that are to be drained go by it. Without a packet path it does nothing.
func (a *Agent) keepLease(ctx context.Context) (stop func()) {
	if a.packets == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var beating sync.WaitGroup
	beating.Go(func() {
		// It logs what goes wrong, and goes on.
		_ = a.heartbeat(ctx)
	})
	return func() {
		cancel()
		beating.Wait()
	}
}
