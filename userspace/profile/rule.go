package profile

import (
	"cmp"
	"math"
	"slices"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// MaxID is the size in bytes of the longest id of a rule or channel: the
// kernel's tables keep rule ids in a field of this size.
const MaxID = 128

// ordered is a rule and where the profile gave its order.
type ordered struct {
	policy.Rule
	at *node
}

// rules reads the list of rules and sorts it by order, ascending. Rules of
// equal order keep the sequence of the document.
func rules(list *node, channels []policy.Channel) []policy.Rule {
	known := make(map[string]bool, len(channels))
	for _, c := range channels {
		known[c.ID] = true
	}
	var read []ordered
	seen := make(map[string]bool)
	for item := range list.items() {
		o, ok := item.object("id", "channelId", "order", "action", "hardening", "matchingCriteria",
			"appAuthorizationTokenContext", "acquireIfUnresolved", "quic")
		if !ok {
			continue
		}
		r := ordered{rule(o, known), o.optional("order")}
		if seen[r.ID] && r.ID != "" {
			o.required("id").reject("an id that no other rule has")
		}
		seen[r.ID] = true
		read = append(read, r)
	}
	slices.SortStableFunc(read, func(a, b ordered) int { return cmp.Compare(a.Order, b.Order) })

	sorted := make([]policy.Rule, len(read))
	for i, r := range read {
		sorted[i] = r.Rule
		if i > 0 && r.Order == read[i-1].Order && r.at != nil {
			r.at.warn("rule %s has the order of rule %s, so their sequence in the profile decides",
				quote(r.ID), quote(read[i-1].ID))
		}
	}
	return sorted
}

func rule(o object, known map[string]bool) policy.Rule {
	r := policy.Rule{
		ID:                  o.required("id").id(),
		Order:               o.required("order").number(-math.MaxFloat64),
		Action:              action(o.required("action")),
		RejectQUIC:          rejectsQUIC(o.optional("quic")),
		AcquireIfUnresolved: o.optional("acquireIfUnresolved").booleanOrText(true),
		Token:               tokenContext(o.optional("appAuthorizationTokenContext")),
	}
	r.Hardening = ruleHardening(o, r.Action)
	r.Channel = ruleChannel(o, r.Action, known)
	if criteria, ok := o.required("matchingCriteria").object("address", "ports", "protocol"); ok {
		if address, ok := criteria.optional("address").object("ips", "fqdns"); ok {
			r.Addrs = addrs(address.optional("ips"))
			r.Names = names(address.optional("fqdns"))
		}
		r.Ports = ports(criteria.optional("ports"))
		r.Protocols = protocols(criteria.optional("protocol"))
	}
	return r
}

func action(n *node) policy.Action {
	return word(n, `"Tunnel" or "Bypass"`, map[string]policy.Action{
		"tunnel": policy.ActionTunnel,
		"bypass": policy.ActionBypass,
	})
}

// rejectsQUIC reads what becomes of QUIC to where a rule carries TCP 443: nothing
// of its own, unless the rule rejects it. The field is bpfacq's own.
func rejectsQUIC(n *node) bool {
	return n != nil && word(n, `"Reject" or null`, map[string]bool{"reject": true})
}

// ruleHardening reads what a Tunnel rule wants while its channel is down. It
// must be said: to choose here could open what was meant to be closed, or cut
// off what was meant to stay open. A Bypass rule needs none, and without one
// has HardeningBypass, which is what happens to its flows.
func ruleHardening(o object, a policy.Action) policy.Hardening {
	if a == policy.ActionBypass && o.optional("hardening") == nil {
		return policy.HardeningBypass
	}
	return word(o.required("hardening"), `"Bypass" or "Block"`, map[string]policy.Hardening{
		"bypass": policy.HardeningBypass,
		"block":  policy.HardeningBlock,
	})
}

// ruleChannel reads the id of the channel that a rule belongs to. Only a Bypass
// rule can do without.
func ruleChannel(o object, a policy.Action, known map[string]bool) string {
	if a == policy.ActionBypass && o.optional("channelId") == nil {
		return ""
	}
	field := o.required("channelId")
	id := field.id()
	if id != "" && !known[id] {
		field.reject("the id of a channel of this profile")
	}
	return id
}

// ports reads a list of inclusive port ranges; an empty one is every port.
func ports(list *node) []policy.PortRange {
	var ranges []policy.PortRange
	for item := range list.items() {
		o, ok := item.object("start", "end")
		if !ok {
			continue
		}
		first, ok1 := o.required("start").port(0)
		last, ok2 := o.required("end").port(0)
		r := policy.PortRange{First: first, Last: last}
		if ok1 && ok2 && first > last {
			item.rejectAs(r.String(), "a start that is not after the end")
		}
		ranges = append(ranges, r)
	}
	if len(ranges) == 0 {
		return []policy.PortRange{policy.AllPorts()}
	}
	return ranges
}

// protocols reads a protocol; none means both.
func protocols(n *node) policy.Protocols {
	if n == nil {
		return policy.AnyProtocol
	}
	return word(n, `"Tcp", "Udp", "Any" or null`, map[string]policy.Protocols{
		"tcp": policy.TCP,
		"udp": policy.UDP,
		"any": policy.AnyProtocol,
	})
}
