package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/userspace/channel"
	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/metrics"
)

// Status implements control.Agent. What cannot be read becomes a warning.
func (a *Agent) Status(context.Context) control.Status {
	s := control.Status{
		Version:  a.opts.Version,
		PID:      os.Getpid(),
		Started:  a.started,
		Uptime:   time.Since(a.started).Seconds(),
		Cgroup:   a.datapath.Cgroup,
		Pins:     a.datapath.Pins,
		Flows:    control.Totals(a.flows.Totals()),
		Warnings: []string{},
	}
	warn := func(err error) {
		if err != nil {
			s.Warnings = append(s.Warnings, err.Error())
		}
	}

	if complaint := a.notices.outstanding(); complaint != "" {
		s.Warnings = append(s.Warnings, complaint)
	}
	hooks, err := a.datapath.Hooks()
	warn(err)
	for _, h := range hooks {
		s.Hooks = append(s.Hooks, control.Hook{Program: h.Program, ID: h.ProgramID, AttachPoint: attachPoint(h)})
	}
	s.Packets = a.packetStatus(hooks)
	for _, u := range s.Packets.Uplinks {
		if u.Cause != "" {
			s.Warnings = append(s.Warnings, fmt.Sprintf("uplink %s: %s", u.Name, u.Cause))
		}
	}
	s.Counters, err = a.Counters()
	warn(err)
	s.Lease, err = a.leaseStatus()
	warn(err)
	if l := a.loaded.Load(); l != nil {
		p := l.Profile()
		s.Profile, s.Generation, s.Channels = &p, l.Generation, a.channels(l)
		s.DNS = a.DNS()
		s.Warnings = append(s.Warnings, a.nameWarnings(s.DNS)...)
		for _, w := range l.profile.Warnings {
			s.Warnings = append(s.Warnings, "profile: "+w.String())
		}
	}
	return s
}

func attachPoint(h loader.Hook) string {
	if h.Device != 0 {
		return fmt.Sprintf("%s of device %d", h.Attach, h.Device)
	}
	return fmt.Sprintf("%s of cgroup %d", h.Attach, h.CgroupID)
}

// Counters reads the datapath's counters by name.
func (a *Agent) Counters() (map[string]uint64, error) {
	sums, err := a.datapath.Maps.Counters()
	if err != nil {
		return nil, err
	}
	named := make(map[string]uint64, len(sums))
	for c, n := range sums {
		named[c.String()] = n
	}
	return named, nil
}

func (a *Agent) leaseStatus() (control.Lease, error) {
	lease := control.Lease{Period: a.leasePeriod().Seconds()}
	agent, err := a.datapath.Maps.Agent()
	if err != nil {
		return lease, err
	}
	now, err := maps.Monotonic()
	lease.Fresh = now <= agent.LeaseUntil
	return lease, err
}

// Flows implements control.Agent.
func (a *Agent) Flows() []flow.Flow {
	flows := a.flows.Snapshot()
	for i := range flows {
		flows[i].Command = command(flows[i].PID)
	}
	return flows
}

// command is the name of a process, empty if it is gone.
func command(pid uint32) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(name))
}

// Metrics implements control.Agent.
func (a *Agent) Metrics() http.Handler { return a.metrics }

// watchStates writes the channels' states into the kernel's table when one has
// changed.
func (a *Agent) watchStates(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.states:
		}
		a.apply.Lock()
		a.showStates()
		a.queries.flush()
		a.apply.Unlock()
	}
}

// showStates writes the states of the policy in force, and says so to the
// supervisor. The caller holds a.apply.
func (a *Agent) showStates() {
	l := a.loaded.Load()
	if l == nil {
		return
	}
	for i, c := range l.epoch.carriers {
		s := c.Status()
		err := errors.Join(
			a.datapath.Maps.SetChannelState(uint32(i), channelState(s.State)),
			a.datapath.Maps.SetDatagrams(uint32(i), channelDatagrams(s.Datagrams)))
		if err != nil {
			a.log.Warn("show channel state", slog.String("channel", l.Policy.Channels[i].ID), slog.Any("error", err))
		}
	}
	a.notices.acquiring(a.summary())
}

// Gauges implements metrics.Source.
func (a *Agent) Gauges() metrics.Gauges {
	g := metrics.Gauges{
		TCP:      control.Totals(a.flows.TotalsOf(flow.TCP)),
		UDP:      control.Totals(a.flows.TotalsOf(flow.UDP)),
		Channels: make(map[string]bool),
		DNS:      a.DNS(),

		Datagrams: make(map[string]bool),
	}
	hooks, err := a.datapath.Hooks()
	if err != nil {
		a.log.Debug("list hooks", slog.Any("error", err))
	}
	g.Packets = a.packetStatus(hooks)
	if a.listener != nil {
		g.NoRecord = a.listener.Counts().NoRecord
	}
	if l := a.loaded.Load(); l != nil {
		g.Generation = l.Generation
		for i, c := range l.epoch.carriers {
			id, s := l.Policy.Channels[i].ID, c.Status()
			g.Channels[id] = s.State == channel.StateUp
			if s.Datagrams != channel.DatagramsUnknown {
				g.Datagrams[id] = s.Datagrams == channel.DatagramsCarried
			}
		}
	}
	return g
}
