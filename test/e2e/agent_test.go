package e2e

import (
	"context"
	"crypto/tls"
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
// prints "ready" when it acquires, reloads at SIGHUP and stops at SIGTERM.
func agentScenario(args []string, stdout io.Writer) error {
	c, err := config.Load(args[0])
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	level := new(slog.LevelVar)
	level.Set(c.Log.Level)
	manager, err := supervisor.FromEnvironment()
	if err != nil {
		return err
	}
	var ready sync.Once
	return agent.Run(ctx, agent.Options{
		Config:   c,
		Reread:   func() (*config.Config, error) { return config.Load(args[0]) },
		Version:  "v1.2.3",
		Log:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
		LogLevel: level,
		Reload:   hangups(ctx),
		Notify: func(n supervisor.Notice) {
			if err := manager.Notify(n); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			if n.Stage == supervisor.StageReady {
				ready.Do(func() { fmt.Fprintln(stdout, "ready") })
			}
		},
		Watchdog: manager.Watchdog,
	})
}

// hangups yields for every SIGHUP until ctx is done.
func hangups(ctx context.Context) <-chan struct{} {
	signals, asked := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
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
	}()
	return asked
}

// edgeOffer is what an edge offers beside HTTP/2 and HTTP/1.1.
type edgeOffer string

// The offers of edges.
const (
	offerHTTP2  edgeOffer = "h2"       // nothing
	offerHTTP3  edgeOffer = "h3"       // HTTP/3, for datagrams
	preferHTTP3 edgeOffer = "h3 first" // HTTP/3, for all
)

// edgeScenario is bpfacq's own edge: its arguments are what it offers, where it
// listens, files with its certificate and key, and the destinations that it
// allows. It prints "ready" when it listens.
func edgeScenario(args []string, stdout io.Writer) error {
	offer, args := edgeOffer(args[0]), args[1:]
	certificate, err := tls.LoadX509KeyPair(args[1], args[2])
	if err != nil {
		return err
	}
	e, err := edge.New(edge.Options{
		Listen:      args[0],
		Certificate: certificate,
		Allow:       args[3:],
		HTTP3:       offer != offerHTTP2,
		PreferHTTP3: offer == preferHTTP3,
		Resolver: hosts{
			diagnosticHost: netip.MustParseAddr(diagnosticAddr),
			buildName:      netip.MustParseAddr(webAddr),
			ghostName:      netip.MustParseAddr(webAddr),
			vaultName:      netip.MustParseAddr(webAddr),
			privateName:    netip.MustParseAddr(webAddr),
		},
	})
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
