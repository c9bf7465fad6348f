package control

import (
	"net"
	"net/netip"
	"strconv"

	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// FlowList is the answer to a question for flows.
type FlowList struct {
	Schema int         `json:"schema"`
	Flows  []flow.Flow `json:"flows"`
}

// RuleList is the answer to a question for rules.
type RuleList struct {
	Schema     int    `json:"schema"`
	Generation uint32 `json:"generation"`
	Rules      []Rule `json:"rules"`
}

// Rule is a rule in readable form.
type Rule struct {
	Index     int      `json:"index"` // in evaluation order
	ID        string   `json:"id"`
	Order     float64  `json:"order"`
	Action    string   `json:"action"`
	Hardening string   `json:"hardening"`
	Channel   string   `json:"channel"`      // its identifier
	Name      string   `json:"channel_name"` // empty when the policy has no such channel
	Protocol  string   `json:"protocol"`
	QUIC      string   `json:"quic,omitempty"` // "reject": UDP 443 to where the rule carries TCP 443 is refused
	Ports     []string `json:"ports"`
	Addresses []string `json:"addresses"` // addresses, prefixes and ranges
	Names     []string `json:"names"`     // regular expressions
}

// PolicyAnswer is the answer to a question for the policy.
type PolicyAnswer struct {
	Schema     int             `json:"schema"`
	Generation uint32          `json:"generation"`
	Profile    Profile         `json:"profile"`
	Channels   []PolicyChannel `json:"channels"`
	Settings   Settings        `json:"settings"`
	Protected  []Protected     `json:"protected"`

	PrivateDNS []PrivateDNSRule `json:"private_dns"`
}

// PolicyChannel is a channel as the profile has it.
type PolicyChannel struct {
	ID            string `json:"id"`
	Name          string `json:"name"`
	Primary       []Edge `json:"primary_edges"`
	Secondary     []Edge `json:"secondary_edges"`
	DiagnosticURI string `json:"diagnostic_uri,omitempty"`
}

// Edge is an edge as the profile has it.
type Edge struct {
	Address string `json:"address"` // host:port
	Secure  bool   `json:"secure"`
}

// Settings are the parts of the profile that shape the agent. Zero means that
// the profile does not say.
type Settings struct {
	GraceTime     float64 `json:"grace_time_seconds"`
	ProbeInterval float64 `json:"probe_interval_seconds"`
	PollInterval  float64 `json:"poll_interval_seconds"`
	SyntheticPool string  `json:"synthetic_pool,omitempty"`
	FlushCache    bool    `json:"flush_cache"` // the host's caches of names, when the policy changes
}

// Protected is a destination that no rule can acquire.
type Protected struct {
	Prefix string `json:"prefix"`
	Ports  string `json:"ports"`
	Reason string `json:"reason"`
}

// Rules puts the rules of p into readable form.
func Rules(p *policy.Policy) []Rule {
	names := make(map[string]string, len(p.Channels))
	for _, ch := range p.Channels {
		names[ch.ID] = ch.Name
	}
	rules := make([]Rule, len(p.Rules))
	for i, r := range p.Rules {
		quic := ""
		if r.RejectQUIC {
			quic = policy.ActionReject.String()
		}
		rules[i] = Rule{
			Index: i, ID: r.ID, Order: r.Order,
			Action: r.Action.String(), Hardening: r.Hardening.String(),
			Channel: r.Channel, Name: names[r.Channel],
			Protocol:  r.Protocols.String(),
			QUIC:      quic,
			Ports:     texts(r.Ports, policy.PortRange.String),
			Addresses: texts(r.Addrs, rangeText),
			Names:     texts(r.Names, func(n policy.NamePattern) string { return n.Source }),
		}
	}
	return rules
}

// show puts the loaded policy into readable form.
func (l Loaded) show() PolicyAnswer {
	p := l.Policy
	answer := PolicyAnswer{
		Schema:     Schema,
		Generation: l.Generation,
		Profile:    l.Profile(),
		Channels:   make([]PolicyChannel, len(p.Channels)),
		Protected:  make([]Protected, len(p.Protected)),
		PrivateDNS: make([]PrivateDNSRule, len(p.PrivateDNS)),
		Settings: Settings{
			GraceTime:     p.Settings.GraceTime.Seconds(),
			ProbeInterval: p.Settings.ProbeInterval.Seconds(),
			PollInterval:  p.Settings.PolicyPollInterval.Seconds(),
			FlushCache:    p.Settings.FlushCacheOnChange,
		},
	}
	if p.Settings.SyntheticPool.IsValid() {
		answer.Settings.SyntheticPool = p.Settings.SyntheticPool.String()
	}
	for i, ch := range p.Channels {
		answer.Channels[i] = PolicyChannel{
			ID: ch.ID, Name: ch.Name,
			Primary: edges(ch.Primary), Secondary: edges(ch.Secondary),
			DiagnosticURI: ch.DiagnosticURI,
		}
	}
	for i, pr := range p.Protected {
		answer.Protected[i] = Protected{pr.Prefix.String(), pr.Ports.String(), pr.Reason}
	}
	for i, rule := range p.PrivateDNS {
		answer.PrivateDNS[i] = PrivateDNSRule(rule)
	}
	return answer
}

func edges(es []policy.Edge) []Edge {
	shown := make([]Edge, len(es))
	for i, e := range es {
		shown[i] = Edge{net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))), e.Secure}
	}
	return shown
}

// texts never returns nil, so that JSON has a list where there is none.
func texts[T any](list []T, text func(T) string) []string {
	shown := make([]string, len(list))
	for i, v := range list {
		shown[i] = text(v)
	}
	return shown
}

// rangeText writes a range as a prefix when it is one.
func rangeText(r policy.AddrRange) string {
	if r.First == r.Last {
		return r.First.String()
	}
	for bits := range r.First.BitLen() {
		if prefix := netip.PrefixFrom(r.First, bits); prefix == prefix.Masked() && lastOf(prefix) == r.Last {
			return prefix.String()
		}
	}
	return r.String()
}

func lastOf(prefix netip.Prefix) netip.Addr {
	bytes := prefix.Addr().AsSlice()
	for bit := prefix.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}
