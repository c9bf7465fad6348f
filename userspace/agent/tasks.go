package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/bpfacq/bpfacq/userspace/control"
)

// Limits of stopping, and of who reads metrics.
const (
	shutdownTimeout = 2 * time.Second
	headerTimeout   = 5 * time.Second
)

// tasks are the goroutines beside those that carry flows.
type tasks struct {
	ctx     context.Context // done when the agent is to stop
	cancel  context.CancelCauseFunc
	running sync.WaitGroup
}

// run adds a task. Its error stops the agent.
func (t *tasks) run(name string, task func(ctx context.Context) error) {
	t.running.Go(func() {
		if err := task(t.ctx); err != nil {
			t.cancel(fmt.Errorf("%s: %w", name, err))
		}
	})
}

// stop ends all tasks, waits for them, and returns what made the agent stop, if
// that was not its caller.
func (t *tasks) stop() error {
	t.cancel(nil)
	t.running.Wait()
	if cause := context.Cause(t.ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// startTasks opens the sockets that people ask, and starts everything that runs
// beside the flows.
func (a *Agent) startTasks(ctx context.Context) (*tasks, error) {
	cfg := a.config.Load()
	socket, err := control.Listen(cfg.Control.Socket)
	if err != nil {
		return nil, err
	}
	var scrapes net.Listener
	if cfg.Metrics.Listen != "" {
		if scrapes, err = listenForScrapes(ctx, cfg.Metrics.Listen); err != nil {
			return nil, errors.Join(err, socket.Close())
		}
	}

	t := &tasks{}
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	server := control.NewServer(a, a.log)
	t.run("serve control socket", func(ctx context.Context) error {
		return serveUntil(ctx, func() error { return server.Serve(socket) }, server.Shutdown)
	})
	if scrapes != nil {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", a.metrics)
		server := &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout}
		t.run("serve metrics", func(ctx context.Context) error {
			return serveUntil(ctx, func() error { return server.Serve(scrapes) }, server.Shutdown)
		})
	}
	t.run("renew lease", a.heartbeat)
	t.run("show channel states", a.watchStates)
	t.run("reload", a.watchReload)
	t.run("locate edges", a.watchEdges)
	t.run("restore names", a.restoreNames)
	t.run("flush caches", a.watchFlushes)
	t.run("watch refusals", a.watchRefusals)
	if a.packets != nil {
		t.run("follow uplinks", a.packets.run)
		t.run("name containers", func(ctx context.Context) error {
			a.origins.Run(ctx)
			return nil
		})
	}
	if a.opts.Watchdog > 0 {
		t.run("feed watchdog", (&watchdog{a.opts.Watchdog, a.alive, a.notices.alive, a.log}).run)
	}
	return t, nil
}

// serveUntil serves until ctx is done or serving fails.
func serveUntil(ctx context.Context, serve func() error, shutdown func(context.Context) error) error {
	failed := make(chan error, 1)
	go func() { failed <- serve() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	// Requests that are cut off at a stop are nobody's error.
	_ = shutdown(limit)
	<-failed
	return nil
}

// watchReload reloads on each request.
func (a *Agent) watchReload(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.opts.Reload:
		}
		if err := a.Reload(ctx); err != nil {
			a.log.Error("reload", slog.Any("error", err))
		}
	}
}
