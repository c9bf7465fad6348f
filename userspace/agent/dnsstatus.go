package agent

import (
	"net/netip"

	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/dns"
	"github.com/bpfacq/bpfacq/userspace/synthetic"
)

// DNS implements control.Agent.
func (a *Agent) DNS() control.DNS {
	d := control.DNS{
		Queries: make(map[string]uint64), Events: make(map[string]uint64), Latency: make(map[string]control.Latency),
	}
	g := a.names.current.Load()
	if g == nil {
		d.Cause = control.ErrNoPolicy.Error()
		return d
	}
	d.On, d.Cause = g.queried, g.cause
	if trouble := a.queries.trouble.Load(); trouble != nil && *trouble != nil {
		d.On, d.Cause = false, (*trouble).Error()
	}
	if d.On {
		d.PortIPv4, d.PortIPv6 = a.queries.ports()
	}
	for i := range g.policy.Rules {
		d.Patterns += len(g.policy.Rules[i].Names)
	}
	d.Pool.Prefixes = g.policy.Pools
	if g.pool != nil {
		d.Pool = pool(d.Pool.Prefixes, g.pool.Stats())
	} else if g.poolErr != nil {
		d.Pool.LogError = g.poolErr.Error()
	}
	for _, rule := range g.policy.PrivateDNS {
		p := control.PrivateDNS{PrivateDNSRule: control.PrivateDNSRule(rule)}
		if g.queried {
			id, c := g.private(rule.Server)
			p.Channel, p.Active = id, c.up()
		}
		d.Private = append(d.Private, p)
	}
	if server := a.queries.server.Load(); server != nil {
		addServer(&d, server.Status())
	}
	return d
}

func pool(prefixes []netip.Prefix, s synthetic.Stats) control.Pool {
	p := control.Pool{
		Prefixes: prefixes, Capacity: s.Capacity, Used: s.Used, Held: s.Held, Full: s.Full,
		LogSize: s.LogSize, Syncs: s.Syncs, SyncTime: s.SyncTime.Seconds(), SyncMax: s.SyncMax.Seconds(),
	}
	if s.LogErr != nil {
		p.LogError = s.LogErr.Error()
	}
	return p
}

// addServer adds what the DNS server knows.
func addServer(d *control.DNS, s dns.Status) {
	d.Pending, d.Connections, d.Lookups = s.Pending, s.Connections, s.Lookups
	for outcome, n := range s.Outcomes {
		if outcome < dns.OutcomeStray {
			d.Queries[outcome.String()] = n
		} else {
			d.Events[outcome.String()] = n
		}
	}
	for way, l := range s.Latency {
		d.Latency[way.String()] = latency(l)
	}
	for _, one := range s.Servers {
		d.Servers = append(d.Servers, control.DNSServer{
			Server: one.Server, Way: one.Way.String(), Queries: one.Queries, Answers: one.Answers,
			Timeouts: one.Timeouts, Failures: one.Failures, Cause: one.Cause, Latency: latency(one.Latency),
		})
	}
}

func latency(l dns.Latency) control.Latency {
	shown := control.Latency{Count: l.Count, Sum: l.Sum.Seconds()}
	for _, b := range l.Buckets {
		shown.Buckets = append(shown.Buckets, control.LatencyBucket{Bound: b.Bound.Seconds(), Count: b.Count})
	}
	return shown
}

// nameWarnings are what keeps names from being acquired that a rule names.
func (a *Agent) nameWarnings(d control.DNS) []string {
	var all []string
	g := a.names.current.Load()
	if lacksPool(g.policy, a.config.Load()) {
		all = append(all, warnNoPool)
	}
	if g.queried && !d.On {
		all = append(all, "queries are not taken: "+d.Cause)
	}
	if d.Pool.LogError != "" {
		all = append(all, "names get no synthetic addresses: "+d.Pool.LogError)
	}
	return all
}
