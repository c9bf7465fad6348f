package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	drainInterval = time.Second // of telling the supervisor how far draining is

	// drainExtension is how long a stop takes from then on, at most, if that
	// was the last flow: the tasks' end is in it, and a busy host.
	drainExtension = 15 * time.Second
)

// accept serves the listeners, and returns how to stop that: new flows first,
// and then, by draining, those that are carried.
func (a *Agent) accept(ctx context.Context) (stop func(), wait func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var serving sync.WaitGroup
	if a.listener != nil {
		serving.Go(func() { a.listener.Serve(ctx, a.carry) })
	}
	return cancel, serving.Wait
}

// drain stops accepting, gives the flows that were accepted the configured time
// to end, and resets the rest.
func (a *Agent) drain(stop, wait func()) {
	stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		wait()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(a.config.Load().Relay.Drain))
	defer cancel()
	a.awaitFlows(ctx, ended)
	if left := a.relay.Drain(ctx); left > 0 {
		a.log.Warn("flows reset at stop", slog.Int("flows", left))
	}
	<-ended
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
