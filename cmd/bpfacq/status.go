package main

import (
	"cmp"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/bpfacq/bpfacq/userspace/control"
)

func newStatus(e *env) *cobra.Command {
	return asking(e, &cobra.Command{
		Use:   "status",
		Short: "Show the state of the agent",
		Long: `Status shows the agent's own state, the loaded policy, whether DNS queries are taken,
the channels and their edges and whether those carry UDP, the uplinks at whose egress
packets are acquired, the attached programs, and the counters that are not zero.`,
		Example: `  sudo bpfacq status
  sudo bpfacq status -o json`,
		Args: operands,
	}, (*control.Client).Status, statusTable)
}

func statusTable(w io.Writer, s *control.Status) {
	uptime := time.Duration(s.Uptime * float64(time.Second)).Round(time.Second)
	row(w, "agent", fmt.Sprintf("bpfacq %s, pid %d, up %v", s.Version, s.PID, uptime))
	row(w, "cgroup", s.Cgroup)
	row(w, "pins", s.Pins)
	lease := "lapsed: each rule's hardening decides"
	if s.Lease.Fresh {
		lease = "fresh"
	}
	row(w, "lease", fmt.Sprintf("%s, of %s", lease, seconds(s.Lease.Period)))
	if s.Profile != nil {
		profileRows(w, s.Profile, s.Generation)
	} else {
		row(w, "profile", "none is loaded")
	}
	row(w, "flows", fmt.Sprintf("%d active, %d closed, %d reset, %d refused, %d failed",
		s.Flows.Active, s.Flows.Closed, s.Flows.Reset, s.Flows.Refused, s.Flows.Failed))
	row(w, "carried", fmt.Sprintf("%s sent, %s received", size(s.Flows.BytesSent), size(s.Flows.BytesReceived)))
	row(w, "dns", dnsLine(&s.DNS))
	row(w, "packets", packetsLine(&s.Packets))
	for _, warning := range s.Warnings {
		row(w, "warning", warning)
	}
	channelTable(w, s.Channels)
	uplinkTable(w, s.Packets.Uplinks)
	row(w)
	row(w, "HOOK", "PROGRAM", "ID")
	for _, h := range s.Hooks {
		row(w, h.AttachPoint, h.Program, h.ID)
	}
	countTable(w, "COUNTER", "VALUE", s.Counters)
}

// packetsLine is the packet path in a line.
func packetsLine(p *control.Packets) string {
	if !p.On {
		return "off: UDP, containers and bound sockets pass untouched"
	}
	up := 0
	for _, u := range p.Uplinks {
		if u.Cause == "" {
			up++
		}
	}
	containers := "containers pass"
	if p.Containers {
		containers = "containers are acquired"
	}
	return fmt.Sprintf("on, at %s; %s; %d of %d UDP flows", plural(up, "uplink"), containers, p.UDP.Flows, p.UDP.Capacity)
}

func uplinkTable(w io.Writer, uplinks []control.Uplink) {
	if len(uplinks) == 0 {
		return
	}
	row(w)
	row(w, "UPLINK", "STATE", "MTU", "KIND", "LINKS", "LOST", "PAIR", "CAUSE")
	for _, u := range uplinks {
		kind := "ethernet"
		if u.L3 {
			kind = "ip"
		}
		row(w, u.Name, u.State, u.MTU, kind, u.Links, u.Lost, u.Pair, u.Cause)
	}
}

// dnsLine is "bpfacq dns status" in a line.
func dnsLine(d *control.DNS) string {
	if !d.On {
		return "off: " + cmp.Or(d.Cause, "no cause is known")
	}
	var queries uint64
	for _, n := range d.Queries {
		queries += n
	}
	return fmt.Sprintf("on, %d queries; pool %s", queries, poolText(&d.Pool))
}

func channelTable(w io.Writer, channels []control.Channel) {
	row(w)
	row(w, "CHANNEL", "STATE", "SINCE", "EDGE", "PROTOCOL", "UDP", "STREAMS", "DIAGNOSTIC", "CAUSE")
	for _, ch := range channels {
		row(w, ch.Name, ch.State, ch.Since, ch.Edge, ch.Protocol, ch.Datagrams, ch.Streams, ch.Diagnostic, ch.Cause)
	}
}
