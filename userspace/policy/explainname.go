package policy

import (
	"fmt"
	"net/netip"
)

// The values of ExplainedName.DecidedBy.
const (
	decidedByName    = "name"
	decidedByAddress = "address"
)

// ExplainedName is what comes of a name, as an [Explanation] shows it.
type ExplainedName struct {
	// Acquired says that queries for the name are answered with a synthetic
	// address.
	Acquired bool `json:"acquired"`

	// Synthetic are the addresses that the name has now. They are left for
	// the caller to fill in.
	Synthetic []netip.Addr `json:"synthetic,omitempty"`

	// Original is the first address that the upstream resolver gave, or
	// invalid if none is known.
	Original netip.Addr `json:"original,omitzero"`

	// DecidedBy says which rules decided the flow: those of the name, "name",
	// or those of the original address, "address".
	DecidedBy string `json:"decided_by"`

	// AlsoMatchOriginal says that rules for addresses count among those of the
	// name, by its original address.
	AlsoMatchOriginal bool `json:"also_match_original"`

	// OtherPorts says what happens to the protocols and ports that no rule of
	// the name covers. It is empty if the name is not acquired: then all its
	// flows are decided by address.
	OtherPorts string `json:"other_ports,omitempty"`

	// Note says what all this means for the flow, for people.
	Note string `json:"note"`
}

// explainName says why the canonical flow f, which has a name, got d.
func explainName(p *Policy, f Flow, d NameDecision) Explanation {
	if d.Acquired && p.inPool(f.Addr) {
		f.Addr = netip.Addr{}
	}
	e := explanation(p, f, d.Decision)
	e.Hostname = &ExplainedName{
		Acquired:          d.Acquired,
		Original:          f.Addr,
		DecidedBy:         decidedByAddress,
		AlsoMatchOriginal: p.AlsoMatchOriginal,
		Note:              p.noteOn(f, d),
	}
	if d.ByName {
		e.Hostname.DecidedBy = decidedByName
	}
	if d.Acquired {
		e.Hostname.OtherPorts = otherPorts(f.Addr)
	}
	if reason, ok := p.ProtectedName(f.Name); ok && d.Protection < 0 && d.Reason == ReasonNeverAcquired {
		e.Protection = reason
	}
	for i := range p.Rules {
		if rule := &p.Rules[i]; i != d.Rule && rule.coversPort(f) {
			if why := p.whyBeaten(f, d, i); why != "" {
				e.beat(rule, why)
			}
		}
	}
	return e
}

// noteOn says what the decision on a name means for the flow.
func (p *Policy) noteOn(f Flow, d NameDecision) string {
	switch {
	case d.Verdict == VerdictAcquire && d.ByName:
		return "acquired by its name, which the edge resolves"
	case d.Reason == ReasonQUIC:
		return "refused at once, so that a browser falls back to TCP, which is acquired"
	case d.Reason == ReasonNoOriginal && d.Rule >= 0:
		return "goes to the original address, and is refused while none is known"
	case d.Reason == ReasonNoOriginal:
		return "no rule of the name covers it: goes to the original address, and is refused while none is known"
	case d.Reason == ReasonNoPool:
		return "there is no pool to acquire names with: the address that it is resolved to decides"
	case d.ByName:
		return fmt.Sprintf("goes to the original address %s", f.Addr)
	case d.Acquired:
		return fmt.Sprintf("no rule of the name covers it: goes to the original address %s, which decides", f.Addr)
	case f.Addr.IsValid():
		return fmt.Sprintf("the name is not acquired: its address %s decides", f.Addr)
	}
	return "the name is not acquired: the address that it is resolved to decides"
}

// otherPorts says what happens to flows to an acquired name that no rule of the
// name covers.
func otherPorts(original netip.Addr) string {
	if !original.IsValid() {
		return "refused while no original address is known"
	}
	return fmt.Sprintf("go to the original address %s, which decides", original)
}

// whyBeaten says why rule i, which covers the protocol and port of f, does not
// decide f. It is empty if the rule does not cover f.
func (p *Policy) whyBeaten(f Flow, d NameDecision, i int) string {
	rule := &p.Rules[i]
	named, addressed := rule.coversName(f.Name), rule.coversAddr(f.Addr)
	protection, protected := p.ProtectedName(f.Name)
	switch {
	case d.ByName && p.AlsoMatchOriginal:
		if named || addressed && p.protection(f) < 0 {
			return p.whyLater(f.Addr, d.Rule, i)
		}
	case d.ByName:
		if named {
			return p.whyLater(netip.Addr{}, d.Rule, i)
		}
	case addressed && d.Reason == ReasonNoName:
		return "the address is one for names"
	case addressed && d.Protection >= 0:
		return "the destination is never acquired: " + p.Protected[d.Protection].Reason
	case addressed:
		return p.whyLater(f.Addr, d.Rule, i)
	case !named:
	case protected:
		return "the name is never acquired: " + protection
	case !f.Addr.IsValid():
		return p.whyLater(f.Addr, d.Rule, i)
	case rule.Action == ActionTunnel && len(p.Pools) == 0:
		return "covers the name only: there is no pool to acquire names with"
	default:
		return "covers the name only: a name that is not acquired is decided by its address"
	}
	return ""
}

// whyLater says why rule i loses to the winner of a flow to addr. It is empty if
// the rule comes first, and so does not cover the same flow.
func (p *Policy) whyLater(addr netip.Addr, winner, i int) string {
	if winner < 0 || i < winner {
		return ""
	}
	return p.Rules[winner].beats(&p.Rules[i], addr)
}
