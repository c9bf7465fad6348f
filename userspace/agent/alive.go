package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/bpfacq/bpfacq/userspace/control"
)

// errLapsed says that the programs take the agent for dead.
var errLapsed = errors.New("lease has lapsed")

// alive finds out whether the agent does its work: the programs see a lease that
// was renewed, a flow would find its channel, and who asks the agent gets an
// answer. Where a part of the agent hangs, alive does too, as far as ctx lets it;
// so nobody who waits for it before he speaks for the agent speaks for a dead one.
func (a *Agent) alive(ctx context.Context) error {
	lease, err := a.leaseStatus()
	if err != nil {
		return err
	}
	if !lease.Fresh {
		return errLapsed
	}
	if l := a.loaded.Load(); l != nil {
		a.epochs.route(l.Generation, 0)
	}
	if err := a.queriesAnswered(ctx); err != nil {
		return err
	}
	return answers(ctx, a.config.Load().Control.Socket)
}

// answers asks an agent for its state, which leads through all that it does. Only
// silence is an error: that somebody has removed the socket, or that there is no
// descriptor left to ask with, is no reason to end all flows.
func answers(ctx context.Context, socket string) error {
	_, err := control.NewClient(socket).Status(ctx)
	if ctx.Err() != nil {
		return fmt.Errorf("ask own control socket: %w", err)
	}
	return nil
}

// watchdog tells a supervisor, for as long as that is so, that the agent is alive.
type watchdog struct {
	patience time.Duration // of the supervisor
	alive    func(context.Context) error
	feed     func()
	log      *slog.Logger
}

// run feeds the watchdog until ctx is done, twice in the time that its patience
// lasts. An agent that is not well is soon looked at again: what holds it up may
// be over.
func (w *watchdog) run(ctx context.Context) error {
	pause, begun := w.patience/2, time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Until(begun.Add(pause))):
		}
		pause, begun = w.patience/2, time.Now()
		err := w.look(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			pause = w.patience / 8
			w.log.Error("agent is not alive", slog.Any("error", err))
		default:
			w.feed()
		}
	}
}

func (w *watchdog) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.patience/2)
	defer cancel()
	return w.alive(ctx)
}
