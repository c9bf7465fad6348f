package agent

import (
	"context"
	"log/slog"
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
