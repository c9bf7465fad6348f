package agent

import (
	"crypto/tls"
	"encoding/json"
	"fmt"

	"github.com/bpfacq/bpfacq/userspace/channel"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

// carrier returns what carries the flows of one channel of a policy: one that is
// there already, if nothing of it has changed.
func (a *Agent) carrier(p *policy.Policy, index int, cfg *config.Config, c *credentials) (*carrier, error) {
	ch := p.Channels[index]
	key, err := json.Marshal(struct {
		Channel  policy.Channel
		Settings policy.Settings
		Edges    config.Edges
		Trust    string
	}{ch, p.Settings, cfg.Edges, c.digest})
	if err != nil {
		return nil, fmt.Errorf("compare channel %q: %w", ch.ID, err)
	}
	return a.epochs.carrier(string(key), func() *channel.Channel {
		dialer := a.edgeDialer(&cfg.Edges)
		return channel.New(channel.Options{
			Channel:       ch,
			ProbeInterval: p.Settings.ProbeInterval,
			Roots:         c.roots,
			OnState:       a.stateChanged,
			Log:           a.log,
			Tunnel: func(edge policy.Edge) channel.Tunneler {
				return tunnel.New(tunnel.Options{
					Address:       edgeAddress(edge),
					ServerName:    edge.Host,
					Secure:        edge.Secure,
					TLS:           &tls.Config{RootCAs: c.roots},
					Dial:          dialer.DialContext,
					ListenPacket:  dialer.ListenPacket,
					Transport:     tunnel.Transport(cfg.Edges.Transport),
					Connections:   cfg.Edges.Connections,
					Authorization: func() string { return c.authorization },
					Log:           a.log,
				})
			},
		})
	}), nil
}

// checkEdges rejects a policy whose edges the configuration does not trust. Where
// another relay carries the flows, the agent reaches no edge and trusts none.
func checkEdges(p *policy.Policy, cfg *config.Config) error {
	if cfg.Relay.ExternalListener != "" {
		return nil
	}
	allowed, err := channel.ParseAllowList(cfg.Edges.Allow)
	if err != nil {
		return fmt.Errorf("read edges.allow: %w", err)
	}
	var problems []control.Problem
	check := func(edge policy.Edge, place string) {
		if !allowed.Allows(edge.Host) {
			problems = append(problems, control.Problem{
				Pointer: place + "/edgeAddress",
				Value:   fmt.Sprintf("%q", edge.Host),
				Want:    "an edge that the configuration allows (edges.allow)",
			})
		}
		if !edge.Secure && !cfg.Edges.Cleartext {
			problems = append(problems, control.Problem{
				Pointer: place + "/isSecure",
				Value:   "false",
				Want:    "true, or a configuration that allows cleartext (edges.cleartext)",
			})
		}
	}
	for i, ch := range p.Channels {
		settings := fmt.Sprintf("/policy/channels/%d/edgesSettings", i)
		for j, edge := range ch.Primary {
			check(edge, fmt.Sprintf("%s/primaryEdges/%d", settings, j))
		}
		for j, edge := range ch.Secondary {
			check(edge, fmt.Sprintf("%s/secondaryEdges/%d", settings, j))
		}
	}
	if len(problems) > 0 {
		return &control.RejectedError{Problems: problems}
	}
	return nil
}

// stateChanged asks for the states to be written. It does not block.
func (a *Agent) stateChanged() {
	select {
	case a.states <- struct{}{}:
	default:
	}
}

// channels describes the channels of a policy.
func (a *Agent) channels(l *loaded) []control.Channel {
	streams := make(map[string]int)
	for _, f := range a.flows.Snapshot() {
		if f.State == flow.StateActive {
			streams[f.Channel]++
		}
	}
	all := make([]control.Channel, len(l.epoch.carriers))
	for i, c := range l.epoch.carriers {
		s, ch := c.Status(), l.Policy.Channels[i]
		all[i] = control.Channel{
			ID: ch.ID, Name: ch.Name,
			State: s.State.String(), Cause: s.Cause, Since: s.Since,
			Edge: s.Edge, Streams: streams[ch.ID], Diagnostic: s.Diagnostic,
			Protocol: s.Protocol, Datagrams: s.Datagrams.String(),
		}
	}
	return all
}
