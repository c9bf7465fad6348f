package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/agent"
	"github.com/bpfacq/bpfacq/userspace/supervisor"
)

func newRun(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the agent",
		Long: `Run runs the agent: it loads the profile into the kernel, attaches the datapath and
carries acquired flows to their edges, until SIGINT or SIGTERM. Then it takes the
datapath off the host.

SIGHUP reads the configuration and the profile again. A profile that is rejected
changes nothing; "bpfacq reload" does the same and says so. When the agent dies, the
datapath stays: each rule's hardening then decides, until an agent runs again or
"bpfacq detach --all".

Under systemd the agent says what it is at, is watched by a watchdog if the unit has
one, and logs to the journal with a field for every attribute.`,
		Example: `  sudo bpfacq run
  sudo bpfacq run --config ./bpfacq.toml`,
		Args: operands,
	}
	at := configFlag(e, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		manager, err := supervisor.FromEnvironment()
		if err != nil {
			e.warn(err.Error())
		}
		err = e.runAgent(cmd.Context(), at, manager)
		if err != nil {
			e.notify(manager, supervisor.Notice{Status: "failed: " + err.Error(), Err: err})
		}
		return err
	}
	return cmd
}

// runAgent runs the agent with the configuration of a place.
func (e *env) runAgent(ctx context.Context, at *place, manager *supervisor.Supervisor) error {
	c, err := at.load()
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	level.Set(c.Log.Level)
	log, flush := e.logger(c.Log.Format, level)
	defer flush()
	reload, stop := hangups(ctx)
	defer stop()
	return e.agent(ctx, agent.Options{
		Config:   c,
		Reread:   at.load,
		Version:  version(),
		Log:      log,
		LogLevel: level,
		Reload:   reload,
		Notify:   func(n supervisor.Notice) { e.notify(manager, n) },
		Watchdog: manager.Watchdog,
	})
}

// notify tells the service manager, if one started the agent.
func (e *env) notify(manager *supervisor.Supervisor, n supervisor.Notice) {
	if err := manager.Notify(n); err != nil {
		e.warn(err.Error())
	}
}

// hangups yields for every SIGHUP until stop is called. Those that arrive while
// a reload is still to be taken up ask for nothing more than it.
func hangups(ctx context.Context) (reload <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGHUP)
	asked := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-signals:
			case <-ctx.Done():
				return
			}
			select {
			case asked <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	})
	return asked, func() {
		signal.Stop(signals)
		cancel()
		wg.Wait()
	}
}
