package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Verdict is the decision for one flow. The zero value is unspecified.
type Verdict uint8

// The verdicts. [Policy.Match] never blocks: a rule's hardening turns acquire
// into block only while the rule's channel cannot carry flows.
const (
	VerdictPass    Verdict = iota + 1 // leave the flow alone
	VerdictAcquire                    // take the flow and carry it
	VerdictBlock                      // refuse the flow
)

// String returns the verdict's name in lower case, as every table and JSON
// answer shows it.
func (v Verdict) String() string {
	switch v {
	case VerdictPass:
		return "pass"
	case VerdictAcquire:
		return "acquire"
	case VerdictBlock:
		return "block"
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// Reason says what a [Decision] rests on. Its text appears in JSON answers.
type Reason string

// The reasons of a decision.
const (
	ReasonRule            Reason = "rule"              // a rule matched
	ReasonNoMatch         Reason = "no-match"          // no rule matched
	ReasonNeverAcquired   Reason = "never-acquired"    // the destination is protected
	ReasonNameNotAcquired Reason = "name-not-acquired" // a Tunnel rule matched, but only a name
)

// Flow is what a decision depends on.
//
// A flow is judged by its address. Name is the host name that the address
// stands for, if that is known: a rule then matches by either. Without a valid
// Addr the flow is a question about the name alone.
type Flow struct {
	Protocol Protocols  // TCP or UDP, not both
	Addr     netip.Addr // original destination; an IPv4-mapped one is the IPv4 address, the zone is ignored
	Name     string     // without regard to case and trailing dot; may be empty
	Port     uint16     // original destination's, in host byte order
}

// canonical returns f in the one form that rules are compared with.
func (f Flow) canonical() Flow {
	f.Addr = f.Addr.Unmap().WithZone("")
	f.Name = strings.TrimSuffix(f.Name, ".")
	return f
}

// Decision is the answer of a policy for one flow.
type Decision struct {
	Verdict    Verdict
	Reason     Reason
	Rule       int // index in Policy.Rules of the rule that won, or -1
	Protection int // index in Policy.Protected of the protection that won, or -1
}

// noMatch is the decision for a flow that nothing covers.
func noMatch() Decision {
	return Decision{Verdict: VerdictPass, Reason: ReasonNoMatch, Rule: -1, Protection: -1}
}

// Match decides f in the plainest way: protected destinations first, then the
// rules in order, and the first that covers f wins. It is the oracle for every
// faster way of deciding.
//
// Names are not acquired by themselves: a question about a name alone that a
// Tunnel rule wins is answered with pass, ReasonNameNotAcquired and that rule.
func (p *Policy) Match(f Flow) Decision {
	f = f.canonical()
	for i := range p.Protected {
		if p.Protected[i].covers(f) {
			return Decision{Verdict: VerdictPass, Reason: ReasonNeverAcquired, Rule: -1, Protection: i}
		}
	}
	for i := range p.Rules {
		rule := &p.Rules[i]
		switch {
		case !rule.covers(f):
			continue
		case rule.Action != ActionTunnel:
			return Decision{Verdict: VerdictPass, Reason: ReasonRule, Rule: i, Protection: -1}
		case !f.Addr.IsValid():
			return Decision{Verdict: VerdictPass, Reason: ReasonNameNotAcquired, Rule: i, Protection: -1}
		}
		return Decision{Verdict: VerdictAcquire, Reason: ReasonRule, Rule: i, Protection: -1}
	}
	return noMatch()
}

// covers reports whether the rule matches the canonical flow f. A rule without
// addresses and names matches nothing.
func (r *Rule) covers(f Flow) bool {
	return r.Protocols&f.Protocol != 0 &&
		slices.ContainsFunc(r.Ports, func(p PortRange) bool { return p.Contains(f.Port) }) &&
		(r.coversAddr(f.Addr) || r.coversName(f.Name))
}

func (r *Rule) coversAddr(addr netip.Addr) bool {
	return addr.IsValid() &&
		slices.ContainsFunc(r.Addrs, func(a AddrRange) bool { return a.Contains(addr) })
}

func (r *Rule) coversName(name string) bool {
	return name != "" &&
		slices.ContainsFunc(r.Names, func(n NamePattern) bool { return n.Regexp.MatchString(name) })
}

// covers reports whether the canonical flow f goes to the protected
// destination, by any protocol.
func (p *Protection) covers(f Flow) bool {
	return p.Ports.Contains(f.Port) && p.Prefix.Contains(f.Addr)
}
