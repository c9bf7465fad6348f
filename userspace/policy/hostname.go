package policy

import (
	"net/netip"
	"slices"
)

// NameDecision is what happens to a flow of an application that connects to a
// name. Its Decision is that of the whole flow:
//
//   - acquire by a rule of the name, or block QUIC by one with ReasonQUIC;
//   - pass by a rule of the name: direct to the original address;
//   - block with ReasonNoOriginal: what decides needs an original address, and
//     there is none;
//   - else, with ByName false, the decision for an ordinary flow to the original
//     address, as the rules for addresses and the protections make it. If the name
//     is not acquired and that address is not known, it is pass, with the rule of
//     the name that covers the flow, if there is one.
type NameDecision struct {
	// Acquired says that queries for the name are answered with a synthetic
	// address. It does not depend on protocol and port.
	Acquired bool

	// ByName says that a rule of an acquired name decides. Otherwise the
	// flow is one to the original address, whatever its name is.
	ByName bool

	Decision
}

// MatchName decides a flow to f.Name in the plainest way, and is the oracle for
// every faster one. f.Addr is the original address of the name, which may be
// invalid for none; one in a pool is none. f.Name must not be empty.
//
// The rules of a name are those with a pattern for it. With AlsoMatchOriginal,
// rules whose addresses hold the original address count as well, except where
// that is protected. A name is acquired if the policy has a pool and some
// protocol and port of the name go to a Tunnel rule.
func (p *Policy) MatchName(f Flow) NameDecision {
	f = f.canonical()
	acquired := f
	if p.inPool(f.Addr) {
		acquired.Addr = netip.Addr{}
	}
	switch {
	case p.acquiresName(acquired):
		return p.matchAcquired(acquired)
	case f.Addr.IsValid():
		return NameDecision{Decision: p.matchAddr(f)}
	}
	return NameDecision{Decision: p.matchUnresolved(f)}
}

// matchAcquired decides a flow to the synthetic address of a name.
func (p *Policy) matchAcquired(f Flow) NameDecision {
	d := p.byRules(f, p.ruleOfName)
	byName := NameDecision{Acquired: true, ByName: d.Rule >= 0, Decision: d}
	switch {
	case d.Verdict != VerdictPass, d.Rule >= 0 && f.Addr.IsValid():
		return byName
	case !f.Addr.IsValid():
		byName.Verdict, byName.Reason = VerdictBlock, ReasonNoOriginal
		return byName
	}
	return NameDecision{Acquired: true, Decision: p.matchAddr(f)}
}

// matchUnresolved decides a flow to a name that is not acquired and whose
// address is not known.
func (p *Policy) matchUnresolved(f Flow) Decision {
	if _, ok := p.ProtectedName(f.Name); ok {
		return Decision{Verdict: VerdictPass, Reason: ReasonNeverAcquired, Rule: -1, Protection: -1}
	}
	d := byRule(p, p.ruleOfName(f))
	if d.Verdict == VerdictAcquire {
		d.Verdict, d.Reason = VerdictPass, ReasonNoPool
	}
	return d
}

// byRule returns the decision of a rule that covers a flow, or of none.
func byRule(p *Policy, rule int) Decision {
	if rule < 0 {
		return noMatch()
	}
	d := Decision{Verdict: VerdictPass, Reason: ReasonRule, Rule: rule, Protection: -1}
	if p.Rules[rule].Action == ActionTunnel {
		d.Verdict = VerdictAcquire
	}
	return d
}

// acquiresName reports whether f's name is acquired, whatever f's protocol and
// port are: it tries a port on each side of every border.
func (p *Policy) acquiresName(f Flow) bool {
	if _, ok := p.ProtectedName(f.Name); ok || len(p.Pools) == 0 || f.Name == "" {
		return false
	}
	few := *p // the rules that can matter, as a policy of their own
	few.Rules = nil
	ports := []PortRange{AllPorts()}
	for i := range p.Rules {
		if r := &p.Rules[i]; r.coversName(f.Name) || p.AlsoMatchOriginal && r.coversAddr(f.Addr) {
			few.Rules = append(few.Rules, *r)
			ports = append(ports, r.Ports...)
		}
	}
	for i := range p.Protected {
		if p.Protected[i].Prefix.Contains(f.Addr) {
			ports = append(ports, p.Protected[i].Ports)
		}
	}
	for _, f.Protocol = range []Protocols{TCP, UDP} {
		for _, r := range ports {
			for _, f.Port = range []uint16{r.First, r.Last + 1} {
				if byRule(&few, few.ruleOfName(f)).Verdict == VerdictAcquire {
					return true
				}
			}
		}
	}
	return false
}

// ruleOfName returns the first rule of f's name that covers f, or -1.
func (p *Policy) ruleOfName(f Flow) int {
	return slices.IndexFunc(p.Rules, func(r Rule) bool {
		return r.coversPort(f) && (r.coversName(f.Name) || p.AlsoMatchOriginal && r.coversAddr(f.Addr) && p.protection(f) < 0)
	})
}

// inPool reports whether addr is a synthetic address.
func (p *Policy) inPool(addr netip.Addr) bool {
	return slices.ContainsFunc(p.Pools, func(pool netip.Prefix) bool { return pool.Contains(addr) })
}
