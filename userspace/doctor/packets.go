package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/bpfacq/bpfacq/userspace/config"
)

// packetPath says whether the configuration has packets acquired.
func (x *examination) packetPath() bool {
	return x.config.Packet.Acquires() && x.config.Relay.ExternalListener == ""
}

// uplinks are the names of the devices where packets are acquired, or where they
// would be if an agent ran.
func (x *examination) uplinks() []string {
	var names []string
	switch {
	case !x.packetPath():
	case x.agent != nil:
		for _, u := range x.agent.Packets.Uplinks {
			names = append(names, u.Name)
		}
	case !slices.Equal(x.config.Packet.Uplinks, []string{config.UplinksAuto}):
		names = x.config.Packet.Uplinks
	case x.network != nil:
		for _, l := range x.network.Links {
			if l.Uplink {
				names = append(names, l.Name)
			}
		}
	}
	return names
}

// checkPackets says how the packet path does.
func checkPackets(x *examination) []Finding {
	switch {
	case x.config.Relay.ExternalListener != "":
		return []Finding{noted("", "an external listener gets no packets: UDP, containers and bound sockets pass untouched")}
	case !x.packetPath():
		return []Finding{noted("", "packet.uplinks is empty: UDP, containers and bound sockets pass untouched")}
	case x.agent == nil:
		return nil
	case len(x.agent.Packets.Uplinks) == 0:
		return []Finding{warned("see that a device has a default route, or name devices with packet.uplinks",
			"no device is an uplink: UDP, containers and bound sockets pass untouched")}
	}
	var all []Finding
	var well []string
	for _, u := range x.agent.Packets.Uplinks {
		switch {
		case u.Cause != "":
			all = append(all, warned("see bpfacq status, and the agent's log, journalctl -u bpfacq",
				"no packets are acquired at uplink %s: %s", u.Name, u.Cause))
		case u.Lost > 0:
			all = append(all, warned("see what else attaches to it: bpftool net show, tc filter show dev "+u.Name,
				"somebody has detached the programs from uplink %s, %d times; they were attached again", u.Name, u.Lost))
		default:
			well = append(well, u.Name+" by "+u.Links)
		}
	}
	for _, ch := range x.agent.Channels {
		if ch.Datagrams == "no" {
			all = append(all, noted("use edges that speak CONNECT-UDP (RFC 9298) if UDP is to be carried",
				"no edge of channel %q carries UDP: the hardening of its rules decides about it", ch.Name))
		}
	}
	if len(well) > 0 {
		all = append(all, fine("packets are acquired at %s", strings.Join(well, ", ")))
	}
	return all[:min(len(all), maxListed)]
}

// seenBeside says what a program of another on an uplink means.
func (x *examination) seenBeside() string {
	if x.packetPath() {
		return "it sees packets beside bpfacq: what it redirects or drops first is not acquired"
	}
	return "the socket path decides before packets are made"
}

// flowtable is a shortcut for forwarded flows, of nftables.
type flowtable struct {
	name      string // with family and table
	devices   []string
	offloaded bool // the devices forward by themselves
}

// checkFlowtables looks for shortcuts that packets of forwarded flows take past the
// uplink's egress: those in software do not, those that a device keeps do.
func checkFlowtables(ctx context.Context, x *examination) []Finding {
	const none = "no flowtables that hide packets from an uplink"
	switch {
	case !x.packetPath() || x.config.Packet.Containers == config.ContainersOff:
		return []Finding{fine("packets that the host forwards are not acquired")}
	case x.flowtables == answerNo:
		return []Finding{fine("%s", none)}
	case x.flowtables != answerYes:
		return nil // nftables says why
	}
	listing, err := x.Run(ctx, "nft", "list", "flowtables")
	if err != nil {
		return []Finding{x.unknown("", fmt.Errorf("list flowtables: %w", err))}
	}
	var all []Finding
	uplinks := x.uplinks()
	for _, f := range flowtables(string(listing)) {
		on := slices.DeleteFunc(slices.Clone(f.devices), func(d string) bool { return !slices.Contains(uplinks, d) })
		if f.offloaded && len(on) > 0 {
			all = append(all, warned("remove \"flags offload\" from it, or set packet.containers to \"off\"",
				"flowtable %s has %s forward flows by itself: their packets go past bpfacq", f.name, strings.Join(on, ", ")))
		}
	}
	if len(all) == 0 {
		return []Finding{fine("%s", none)}
	}
	return all[:min(len(all), maxListed)]
}

// flowtables reads what "nft list flowtables" writes, nft(8): JSON has no flags.
func flowtables(listing string) []flowtable {
	var all []flowtable
	table := ""
	for line := range strings.Lines(listing) {
		words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\n,;{}=\"", r) })
		switch {
		case len(words) == 0:
		case words[0] == "table":
			table = strings.Join(words[1:], " ")
		case words[0] == "flowtable":
			all = append(all, flowtable{name: strings.Join(append([]string{table}, words[1:]...), " ")})
		case len(all) == 0:
		case words[0] == "devices":
			all[len(all)-1].devices = append(all[len(all)-1].devices, words[1:]...)
		case words[0] == "flags":
			all[len(all)-1].offloaded = slices.Contains(words, "offload")
		}
	}
	return all
}
