package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// Verdict is the decision for one flow. The zero value is unspecified.
type Verdict uint8

// The verdicts. No rule blocks by itself: a rule's hardening turns acquire into
// block only while the rule's channel cannot carry flows. [Policy.Match] blocks
// what goes to a synthetic address that leads nowhere, and QUIC where a rule
// rejects it.
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
	ReasonRule          Reason = "rule"           // a rule matched
	ReasonNoMatch       Reason = "no-match"       // no rule matched
	ReasonNeverAcquired Reason = "never-acquired" // the destination, or its name, is protected
	ReasonNoPool        Reason = "no-pool"        // a Tunnel rule matched a name, and there is no pool to acquire names with
	ReasonNoOriginal    Reason = "no-original"    // the original address decides or is gone to, and there is none
	ReasonQUIC          Reason = "quic-fallback"  // UDP 443 where a rule carries TCP 443 and rejects QUIC
	ReasonNoName        Reason = "no-name"        // the address lies in a pool and stands for no name
)

// Flow is what a decision depends on.
//
// A flow without Name goes to Addr. One with Name is what an application opens
// to that name, and Addr is then the name's original address: the first one that
// the upstream resolver answers, or invalid where it is not known.
type Flow struct {
	Protocol Protocols  // TCP or UDP, not both
	Addr     netip.Addr // an IPv4-mapped one is the IPv4 address, the zone is ignored
	Name     string     // in any form, see CanonicalName; may be empty
	Port     uint16     // in host byte order
}

// canonical returns f in the one form that rules are compared with. What is no
// name stays as it is.
func (f Flow) canonical() Flow {
	f.Addr = f.Addr.Unmap().WithZone("")
	if name, ok := CanonicalName(f.Name); ok {
		f.Name = name
	}
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

// Match decides f in the plainest way: synthetic addresses and protected
// destinations first, then the rules in order, and the first that covers f
// wins. It is the oracle for every faster way of deciding. A flow to a name is
// decided by [Policy.MatchName].
func (p *Policy) Match(f Flow) Decision {
	if f.Name != "" {
		return p.MatchName(f).Decision
	}
	return p.matchAddr(f.canonical())
}

// matchAddr decides the canonical flow f by its address.
func (p *Policy) matchAddr(f Flow) Decision {
	if p.inPool(f.Addr) {
		return Decision{Verdict: VerdictBlock, Reason: ReasonNoName, Rule: -1, Protection: -1}
	}
	if i := p.protection(f); i >= 0 {
		return Decision{Verdict: VerdictPass, Reason: ReasonNeverAcquired, Rule: -1, Protection: i}
	}
	return p.byRules(f, func(f Flow) int {
		return slices.IndexFunc(p.Rules, func(r Rule) bool { return r.coversPort(f) && r.coversAddr(f.Addr) })
	})
}

// protection returns the first protection that covers the canonical flow f, by
// any protocol, or -1.
func (p *Policy) protection(f Flow) int {
	return slices.IndexFunc(p.Protected, func(x Protection) bool {
		return x.Ports.Contains(f.Port) && x.Prefix.Contains(f.Addr)
	})
}

// coversPort reports whether the rule holds f's protocol and port.
func (r *Rule) coversPort(f Flow) bool {
	return r.Protocols&f.Protocol != 0 &&
		slices.ContainsFunc(r.Ports, func(p PortRange) bool { return p.Contains(f.Port) })
}

func (r *Rule) coversAddr(addr netip.Addr) bool {
	return addr.IsValid() &&
		slices.ContainsFunc(r.Addrs, func(a AddrRange) bool { return a.Contains(addr) })
}

func (r *Rule) coversName(name string) bool {
	return name != "" &&
		slices.ContainsFunc(r.Names, func(n NamePattern) bool { return n.Match(name) })
}
