package policy

// quicPort is where browsers speak HTTP/3 by UDP, and HTTP before it by TCP
// (RFC 9114, section 3.1).
const quicPort = 443

// rejectsQUIC reports whether the rule takes part in refusing QUIC: it carries
// TCP 443 and asks for it.
func (r *Rule) rejectsQUIC() bool {
	return r.RejectQUIC && r.Action == ActionTunnel && r.coversPort(Flow{Protocol: TCP, Port: quicPort})
}

// byRules decides f by the rule that first returns for it, or -1 for none. QUIC
// to where a rule carries TCP and rejects QUIC is refused, unless that rule or
// an earlier one covers it.
func (p *Policy) byRules(f Flow, first func(Flow) int) Decision {
	rule := first(f)
	if f.Protocol != UDP || f.Port != quicPort {
		return byRule(p, rule)
	}
	f.Protocol = TCP
	if tcp := first(f); tcp >= 0 && p.Rules[tcp].rejectsQUIC() && (rule < 0 || rule > tcp) {
		return Decision{Verdict: VerdictBlock, Reason: ReasonQUIC, Rule: tcp, Protection: -1}
	}
	return byRule(p, rule)
}

func lintQUIC(p *Policy) []Finding {
	found := &findings{kind: FindingQUIC}
	for i := range p.Rules {
		rule := &p.Rules[i]
		switch {
		case !rule.RejectQUIC:
		case rule.Action != ActionTunnel:
			found.add(rule.ID, "", "rejecting QUIC has no effect: the rule carries nothing")
		case !rule.rejectsQUIC():
			found.add(rule.ID, "", "rejecting QUIC has no effect: the rule does not carry TCP %d", quicPort)
		case rule.coversPort(Flow{Protocol: UDP, Port: quicPort}):
			found.add(rule.ID, "", "rejecting QUIC has no effect: the rule carries UDP %d too", quicPort)
		}
	}
	return found.all()
}
