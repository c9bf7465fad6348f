package agent

import (
	"context"
	"errors"
	"testing"
)

func TestTaskThatFailsStopsTheOthersAndIsNamed(t *testing.T) {
	broken := errors.New("socket is broken")
	started := new(tasks)
	started.ctx, started.cancel = context.WithCancelCause(t.Context())
	started.run("wait", func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	})
	started.run("serve", func(context.Context) error { return broken })
	<-started.ctx.Done()
	if err := started.stop(); !errors.Is(err, broken) || err.Error() != "serve: socket is broken" {
		t.Errorf("stop: %v, want what the task said", err)
	}
}

func TestTasksThatAreToldToStopDoNotComplain(t *testing.T) {
	started := new(tasks)
	started.ctx, started.cancel = context.WithCancelCause(t.Context())
	started.run("wait", func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if err := started.stop(); err != nil {
		t.Errorf("stop: %v, want nothing", err)
	}
}
