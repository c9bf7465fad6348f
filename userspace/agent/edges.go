package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

const (
	locateTimeout  = 3 * time.Second
	locateInterval = time.Minute
)

// edgeProtections are the addresses of a policy's edges: a rule that covers them
// would send a tunnel into itself. An edge that no resolver knows now protects
// nothing; the agent's own sockets are exempt wherever they go.
func (a *Agent) edgeProtections(ctx context.Context, p *policy.Policy, edges *config.Edges) []policy.Protection {
	// A client that goes away must not put a policy with fewer of them in force.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), locateTimeout)
	defer cancel()
	dialer := a.edgeDialer(edges)
	var mu sync.Mutex
	var found []netip.AddrPort
	var asking sync.WaitGroup
	for _, edge := range distinctEdges(p) {
		asking.Go(func() {
			places, err := dialer.locate(ctx, edge)
			if err != nil {
				a.log.Warn("locate edge", slog.String("edge", edgeAddress(edge)), slog.Any("error", err))
				return
			}
			mu.Lock()
			defer mu.Unlock()
			found = append(found, places...)
		})
	}
	asking.Wait()

	slices.SortFunc(found, netip.AddrPort.Compare)
	found = slices.Compact(found)
	protections := make([]policy.Protection, len(found))
	for i, place := range found {
		protections[i] = policy.Protection{
			Prefix: netip.PrefixFrom(place.Addr(), place.Addr().BitLen()),
			Ports:  policy.PortRange{First: place.Port(), Last: place.Port()},
			Reason: "edge",
		}
	}
	return protections
}

func distinctEdges(p *policy.Policy) []policy.Edge {
	var all []policy.Edge
	for _, ch := range p.Channels {
		for _, edge := range slices.Concat(ch.Primary, ch.Secondary) {
			if !slices.Contains(all, edge) {
				all = append(all, edge)
			}
		}
	}
	return all
}

// watchEdges applies the policy again when an edge has moved to another address.
func (a *Agent) watchEdges(ctx context.Context) error {
	ticker := time.NewTicker(locateInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := a.followEdges(ctx); err != nil {
			a.log.Error("follow edges", slog.Any("error", err))
		}
	}
}

// followEdges protects the addresses at which edges are found now, too. Those of
// before stay protected until the next policy: answers of a resolver rotate, and
// one that fails for a while is no reason to unprotect an edge.
func (a *Agent) followEdges(ctx context.Context) error {
	l, cfg := a.loaded.Load(), a.config.Load()
	all := l.edges
	for _, found := range a.edgeProtections(ctx, l.profile.Policy, &cfg.Edges) {
		if !slices.Contains(all, found) {
			all = append(slices.Clip(all), found)
		}
	}
	if len(all) == len(l.edges) {
		return nil
	}

	a.apply.Lock()
	defer a.apply.Unlock()
	if a.loaded.Load() != l {
		return nil // another policy came, with its own look for edges
	}
	next := &loaded{profile: l.profile, edges: all}
	next.Source = l.Source
	return a.enforce(next, cfg)
}
