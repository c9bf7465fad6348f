package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"os"
	"strconv"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/agent"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/edge"
	"github.com/bpfacq/bpfacq/userspace/supervisor"
)

// agentScenario is the agent, as `bpfacq run` runs it. Its arguments are its
// configuration file and how many flows it must be able to hold.
func agentScenario(args []string, stdout io.Writer) error {
	c, err := config.Load(args[0])
	if err != nil {
		return err
	}
	flows, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	if err := raiseFiles(flows); err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(context.Background())
	err = agent.Run(ctx, agent.Options{
		Config:  c,
		Version: "bench",
		Log:     slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: c.Log.Level})),
		Notify: func(n supervisor.Notice) {
			if n.Stage == supervisor.StageReady {
				go func() { stop(obey(stdout, nil)) }()
			}
		},
	})
	return errors.Join(err, dropCanceled(context.Cause(ctx)))
}

// dropCanceled drops what WithCancelCause makes of no cause.
func dropCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// edgeScenario is bpfacq's own edge, with or without HTTP/3. Its arguments are where
// it listens, files with its certificate and key, what it allows, and how many
// flows it must be able to hold.
func edgeScenario(http3 bool) testutil.Scenario {
	return func(args []string, stdout io.Writer) error { return serveEdge(http3, args, stdout) }
}

func serveEdge(http3 bool, args []string, stdout io.Writer) error {
	certificate, err := tls.LoadX509KeyPair(args[1], args[2])
	if err != nil {
		return err
	}
	flows, err := strconv.Atoi(args[4])
	if err != nil {
		return err
	}
	if err := raiseFiles(flows); err != nil {
		return err
	}
	e, err := edge.New(edge.Options{
		Listen:      args[0],
		Certificate: certificate,
		Allow:       []string{args[3]},
		HTTP3:       http3,
		Log:         slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	l, err := e.Listen(context.Background())
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(context.Background())
	go func() { stop(obey(stdout, nil)) }()
	return errors.Join(e.Serve(ctx, l), dropCanceled(context.Cause(ctx)))
}
