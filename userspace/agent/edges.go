package agent

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// Times of asking DNS for edges: how long for an answer, how often while all
// edges are known, and how often, less and less, while one is not.
const (
	locateTimeout  = 3 * time.Second
	locateInterval = time.Minute
	firstRetry     = time.Second
	lastRetry      = 15 * time.Second
)

// edgeProtections are the addresses of a policy's edges, as far as they are known:
// a rule that covers them would send connections with an edge through that edge.
// No policy waits for DNS, which may lie behind an interface that is not up yet.
// An edge that is known by its name alone is protected as soon as watchEdges has
// found it. Nothing of the agent hangs on that: its own sockets are exempt
// wherever they go, so a tunnel is never sent into itself. The caller holds
// a.apply.
func (a *Agent) edgeProtections(p *policy.Policy, edges *config.Edges) []policy.Protection {
	var found []netip.AddrPort
	for _, edge := range distinctEdges(p) {
		if place, ok := literal(edges, edge); ok {
			found = append(found, place)
		} else {
			found = append(found, a.places[edge]...)
		}
	}
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

// lookForEdges asks watchEdges to do so now. It does not block.
func (a *Agent) lookForEdges() {
	select {
	case a.look <- struct{}{}:
	default:
	}
}

// watchEdges protects edges where DNS finds them: those of a new policy at once,
// one that was not found soon after, and those that have moved within a minute.
func (a *Agent) watchEdges(ctx context.Context) error {
	next := time.NewTimer(locateInterval)
	defer next.Stop()
	var lost []policy.Edge
	retry := firstRetry
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.look:
			retry = firstRetry
		case <-next.C:
		}
		var whole bool
		if lost, whole = a.followEdges(ctx, lost); whole {
			retry = firstRetry
			next.Reset(locateInterval)
		} else {
			next.Reset(retry)
			retry = min(2*retry, lastRetry)
		}
	}
}

// followEdges protects the addresses at which edges are found now, too. Those of
// before stay protected until the next policy: answers of a resolver rotate, and
// one that fails for a while is no reason to unprotect an edge. It returns the
// edges that DNS does not find, of which those that are not in before are logged,
// and whether all is done.
func (a *Agent) followEdges(ctx context.Context, before []policy.Edge) (lost []policy.Edge, whole bool) {
	a.apply.Lock()
	l, cfg := a.loaded.Load(), a.config.Load()
	a.apply.Unlock()
	found, failed := a.locate(ctx, l.profile.Policy, &cfg.Edges)
	for edge, err := range failed {
		lost = append(lost, edge)
		if !slices.Contains(before, edge) && ctx.Err() == nil {
			a.log.Warn("locate edge", slog.String("edge", edgeAddress(edge)), slog.Any("error", err))
		}
	}

	a.apply.Lock()
	defer a.apply.Unlock()
	maps.Copy(a.places, found)
	if a.loaded.Load() != l || a.config.Load() != cfg {
		return lost, false // another policy came, which did not know of this yet
	}
	all := l.edges
	for _, place := range a.edgeProtections(l.profile.Policy, &cfg.Edges) {
		if !slices.Contains(all, place) {
			all = append(slices.Clip(all), place)
		}
	}
	if len(all) == len(l.edges) {
		return lost, len(lost) == 0
	}
	next := &loaded{profile: l.profile, edges: all}
	next.Source = l.Source
	if err := a.enforce(next, cfg); err != nil {
		a.log.Error("protect edges", slog.Any("error", err))
		return lost, false
	}
	return lost, len(lost) == 0
}

// locate asks DNS for the edges of a policy that are known by name alone.
func (a *Agent) locate(ctx context.Context, p *policy.Policy, edges *config.Edges) (found map[policy.Edge][]netip.AddrPort, failed map[policy.Edge]error) {
	ctx, cancel := context.WithTimeout(ctx, locateTimeout)
	defer cancel()
	dialer := a.edgeDialer(edges)
	found, failed = make(map[policy.Edge][]netip.AddrPort), make(map[policy.Edge]error)
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, edge := range distinctEdges(p) {
		if _, ok := literal(edges, edge); ok {
			continue
		}
		asking.Go(func() {
			places, err := dialer.lookUp(ctx, edge)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[edge] = err
			} else {
				found[edge] = places
			}
		})
	}
	asking.Wait()
	return found, failed
}
