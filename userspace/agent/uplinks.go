package agent

import (
	"cmp"
	"maps"
	"slices"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/datagram"
	"github.com/bpfacq/bpfacq/userspace/uplink"
)

// The states of an uplink, as control.Uplink has them.
const (
	stateUp     = "up"
	stateAway   = "away"
	stateFailed = "failed"
)

// packetsOn reports whether a configuration acquires packets. They need the agent's
// own relay.
func packetsOn(c *config.Config) bool { return c.Packet.Acquires() && c.Relay.ExternalListener == "" }

// packetStatus describes the packet path. Hooks are the datapath's.
func (a *Agent) packetStatus(hooks []loader.Hook) control.Packets {
	s := control.Packets{On: a.packets != nil}
	if s.On {
		s.Containers = a.config.Load().Packet.Containers != config.ContainersOff
		s.Uplinks, s.UDP = a.packets.status(hooks)
	}
	return s
}

// status describes the uplinks, those from which nothing is acquired included, and
// the relays for datagrams together.
func (p *packets) status(hooks []loader.Hook) (all []control.Uplink, udp control.UDP) {
	p.mu.Lock()
	defer p.mu.Unlock()
	udp.Events = maps.Clone(p.past)
	for _, o := range p.outlets {
		u := p.describe(o.uplink, hooks)
		u.Pair = o.enclave.Name()
		all = append(all, u)

		s := o.datagrams.Stats()
		udp.Flows += s.Flows
		udp.Sockets += s.Sockets
		udp.Capacity += p.agent.config.Load().Packet.UDPFlows
		addEvents(udp.Events, s)
	}
	for _, f := range p.failed {
		u := p.describe(f.uplink, hooks)
		u.State, u.Cause = stateFailed, f.cause.Error()
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b control.Uplink) int { return cmp.Compare(a.Index, b.Index) })
	return all, udp
}

// describe says what is the same of all uplinks. The caller holds p.mu.
func (p *packets) describe(u uplink.Uplink, hooks []loader.Hook) control.Uplink {
	d := control.Uplink{Name: u.Name, Index: u.Index, State: stateUp, MTU: u.MTU, L3: u.L3, Lost: p.lost[u.Index]}
	if u.Away {
		d.State = stateAway
	}
	for _, h := range hooks {
		if h.Device != u.Index {
			continue
		}
		d.Links = "tcx"
		if h.LinkID == 0 {
			d.Links = "clsact"
		}
	}
	return d
}

// addEvents adds what a relay for datagrams has counted.
func addEvents(to map[string]uint64, s datagram.Stats) {
	to["expired"] += s.Expired
	to["evicted"] += s.Evicted
	to["refused"] += s.Refused
	to["failed"] += s.Failed
	to["dropped"] += s.Dropped
}
