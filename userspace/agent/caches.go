package agent

import (
	"context"
	"log/slog"

	"github.com/bpfacq/bpfacq/userspace/cache"
)

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
