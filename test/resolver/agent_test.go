package resolver

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/bpfacq/bpfacq/userspace/agent"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/edge"
	"github.com/bpfacq/bpfacq/userspace/supervisor"
)

// agentScenario is the agent with the configuration file of its argument. It
// prints "ready" when it acquires, and stops at SIGTERM.
func agentScenario(args []string, stdout io.Writer) error {
	c, err := config.Load(args[0])
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var ready sync.Once
	return agent.Run(ctx, agent.Options{
		Config:  c,
		Version: "v1.2.3",
		Log:     slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: c.Log.Level})),
		Notify: func(n supervisor.Notice) {
			if n.Stage == supervisor.StageReady {
				ready.Do(func() { fmt.Fprintln(stdout, "ready") })
			}
		},
	})
}

// edgeOrder is what an edge is told.
type edgeOrder struct {
	Listen, Certificate, Key string
	Allow                    []string
	Names                    hosts
}

// edgeScenario is bpfacq's own edge with the order of its argument, in JSON. It
// prints "ready" when it listens.
func edgeScenario(args []string, stdout io.Writer) error {
	var o edgeOrder
	if err := json.Unmarshal([]byte(args[0]), &o); err != nil {
		return err
	}
	certificate, err := tls.LoadX509KeyPair(o.Certificate, o.Key)
	if err != nil {
		return err
	}
	e, err := edge.New(edge.Options{Listen: o.Listen, Certificate: certificate, Allow: o.Allow, Resolver: o.Names})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	l, err := e.Listen(ctx)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(stdout, "ready"); err != nil {
		return err
	}
	return e.Serve(ctx, l)
}

// hosts are the names that an edge knows.
type hosts map[string]netip.Addr

// LookupNetIP implements edge.Resolver.
func (h hosts) LookupNetIP(_ context.Context, _, name string) ([]netip.Addr, error) {
	if addr, ok := h[name]; ok {
		return []netip.Addr{addr}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}
