package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"sync"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/agent"
)

func newRun(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the agent",
		Long: `Run runs the agent: it loads the profile into the kernel, attaches the datapath and
carries acquired flows to their edges, until SIGINT or SIGTERM. Then it takes the
datapath off the host.

SIGHUP reads the configuration and the profile again. A profile that is rejected
changes nothing. When the agent dies, the datapath stays: each rule's hardening
then decides, until an agent runs again or "bpfacq detach --all".`,
		Example: `  sudo bpfacq run
  sudo bpfacq run --config ./bpfacq.toml`,
		Args: operands,
	}
	at := configFlag(e, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, path, err := at.load()
		if err != nil {
			return err
		}
		level := new(slog.LevelVar)
		level.Set(c.Log.Level)
		reload, stop := hangups(cmd.Context())
		defer stop()
		return e.agent(cmd.Context(), agent.Options{
			Config:     c,
			ConfigPath: path,
			Version:    version(),
			Log:        e.logger(c.Log.Format, level),
			LogLevel:   level,
			Reload:     reload,
			Ready:      e.ready,
		})
	}
	return cmd
}

// ready tells systemd, if it started the agent, that the unit is up.
func (e *env) ready() {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		e.warn("notify systemd: " + err.Error())
	}
}

func (e *env) logger(format string, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(e.stderr, options))
	}
	return slog.New(slog.NewTextHandler(e.stderr, options))
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
