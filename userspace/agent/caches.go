package agent

import (
	"context"
	"log/slog"
	"time"

	"github.com/bpfacq/bpfacq/userspace/cache"
)

// lastFlush is how long a stop waits for the host's caches.
const lastFlush = 2 * time.Second

// forgetSynthetic empties the host's caches at a stop: without the programs a
// synthetic address is somebody's on the network.
func (a *Agent) forgetSynthetic(ctx context.Context) {
	if g := a.names.current.Load(); g == nil || g.pool == nil {
		return
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
	defer cancel()
	if err := cache.Flush(limit); err != nil {
		a.log.Warn("flush caches of the host", slog.Any("error", err))
	}
}

// flushCaches asks for the host's caches to be emptied. It does not block.
func (a *Agent) flushCaches() {
	select {
	case a.flush <- struct{}{}:
	default:
	}
}

// watchFlushes empties the host's caches on each request: what they hold was
// answered under an earlier policy.
func (a *Agent) watchFlushes(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.flush:
		}
		if err := cache.Flush(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("flush caches of the host", slog.Any("error", err))
		}
	}
}
