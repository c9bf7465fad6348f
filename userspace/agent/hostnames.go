package agent

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/dns"
	"github.com/bpfacq/bpfacq/userspace/hostname"
)

// observer notes the names that applications ask for. It implements dns.Observer.
type observer struct{ table *hostname.Table }

// Observe implements dns.Observer.
func (o observer) Observe(s dns.Sighting) {
	o.table.Seen(hostname.Query{
		Name:      s.Name,
		Synthetic: [2]netip.Addr{s.Address.IPv4, s.Address.IPv6},
		Original:  s.Original,
		Acquired:  s.Judgement.Acquired,
		Rule:      s.Judgement.Rule,
		Channel:   s.Judgement.Channel,
		HasAsker:  s.By.HasAsker,
		PID:       s.By.PID,
		UID:       s.By.UID,
	})
}

// Hostnames implements control.Agent.
func (a *Agent) Hostnames() []control.Hostname {
	known := a.names.snapshot()
	all := make([]control.Hostname, 0, len(known))
	for _, h := range a.hostnames.Snapshot() {
		shown := control.Hostname(h)
		shown.Command = command(h.PID)
		if e, ok := known[h.Name]; ok {
			shown.Synthetic, shown.Original = e.synthetic(), cmp.Or(e.ipv4, e.ipv6, h.Original)
			delete(known, h.Name)
		}
		all = append(all, shown)
	}
	// The rest were not asked for since the agent started, or long ago.
	for name, e := range known {
		j, _ := a.names.judge(name, e.ipv4)
		all = append(all, control.Hostname{
			Name: name, Synthetic: e.synthetic(), Original: cmp.Or(e.ipv4, e.ipv6),
			Acquired: j.Acquired, Rule: j.Rule, Channel: j.Channel,
		})
	}
	slices.SortFunc(all, func(x, y control.Hostname) int { return cmp.Compare(x.Name, y.Name) })
	return all
}

// synthetic lists the addresses that stand for the name, IPv4 first.
func (e named) synthetic() []netip.Addr {
	return slices.DeleteFunc([]netip.Addr{e.address.IPv4, e.address.IPv6}, func(a netip.Addr) bool { return !a.IsValid() })
}
