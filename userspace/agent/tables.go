package agent

import (
	"iter"
	"net/netip"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/userspace/channel"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// Tables puts a compiled policy into the shape of the kernel's maps.
func Tables(p *policy.Policy, c *policy.Compiled) *maps.Tables {
	channels := make(map[string]uint32, len(p.Channels))
	t := &maps.Tables{
		IPv4:     rows(c.IPv4),
		IPv6:     rows(c.IPv6),
		TCP:      &c.Ports.TCP,
		UDP:      &c.Ports.UDP,
		Verdicts: c.Verdicts,
		Width:    int(c.Width),
		Entries:  make([]maps.Entry, len(c.Entries)),
		Channels: make([]maps.Channel, len(p.Channels)),
	}
	for i, ch := range p.Channels {
		channels[ch.ID] = uint32(i)
		t.Channels[i] = maps.Channel{ID: ch.ID, Name: ch.Name, State: maps.ChannelConnecting}
	}
	for i, e := range c.Entries {
		t.Entries[i] = entry(p, e, channels)
	}
	return t
}

func rows(prefixes []policy.PrefixRow) maps.Rows {
	var all iter.Seq2[netip.Prefix, uint32] = func(yield func(netip.Prefix, uint32) bool) {
		for _, p := range prefixes {
			if !yield(p.Prefix, p.Row) {
				return
			}
		}
	}
	return maps.Rows{Len: len(prefixes), All: all}
}

func entry(p *policy.Policy, e policy.Entry, channels map[string]uint32) maps.Entry {
	switch e.Kind {
	case policy.EntryProtection:
		return maps.Entry{ID: p.Protected[e.Protection].Reason, Action: maps.ActionProtect}
	case policy.EntryPool:
		return maps.Entry{ID: "pool " + p.Pools[e.Pool].String(), Action: maps.ActionSynthetic}
	}
	rule := &p.Rules[e.Rule]
	return maps.Entry{
		ID:        rule.ID,
		Order:     rule.Order,
		Rule:      uint32(e.Rule),
		Channel:   channels[rule.Channel],
		Action:    action(e.Action),
		Hardening: hardening(rule.Hardening),
	}
}

func action(a policy.Action) maps.Action {
	switch a {
	case policy.ActionTunnel:
		return maps.ActionTunnel
	case policy.ActionReject:
		return maps.ActionReject
	}
	return maps.ActionBypass
}

// hardening fails closed where a rule does not say: the parser always does.
func hardening(h policy.Hardening) maps.Hardening {
	if h == policy.HardeningBypass {
		return maps.HardeningBypass
	}
	return maps.HardeningBlock
}

func channelState(s channel.State) maps.ChannelState {
	switch s {
	case channel.StateUp:
		return maps.ChannelUp
	case channel.StateDown:
		return maps.ChannelDown
	}
	return maps.ChannelConnecting
}

func channelDatagrams(d channel.Datagrams) maps.Datagrams {
	switch d {
	case channel.DatagramsCarried:
		return maps.DatagramsCarried
	case channel.DatagramsRefused:
		return maps.DatagramsRefused
	}
	return maps.DatagramsUnknown
}
