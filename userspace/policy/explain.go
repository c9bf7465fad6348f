package policy

import (
	"fmt"
	"net/netip"
	"strconv"
)

// explanationSchema is the version of the JSON form of [Explanation].
const explanationSchema = 1

// Explanation is a decision with all that led to it, for people and programs.
type Explanation struct {
	Schema      int    `json:"schema"`
	Protocol    string `json:"protocol"`       // "tcp" or "udp"
	Destination string `json:"destination"`    // the address, or the name of a question about a name
	Name        string `json:"name,omitempty"` // in canonical form
	Port        uint16 `json:"port"`
	Verdict     string `json:"verdict"` // "acquire", "pass" or "block"
	Reason      Reason `json:"reason"`

	// Protection says what the destination is, or what its name stands for, if
	// it is never acquired.
	Protection string `json:"protection,omitempty"`

	// Hostname is what comes of the name, or nil if the flow has none.
	Hostname *ExplainedName `json:"hostname,omitempty"`

	// Rule is the rule that won, or nil.
	Rule *ExplainedRule `json:"rule"`

	// Beaten are the rules that cover the flow too, in order.
	Beaten []BeatenRule `json:"beaten"`

	// Generation is the number of the applied policy that answered, or zero
	// if the policy is not applied.
	Generation uint32 `json:"generation"`
}

// ExplainedRule is a rule as an [Explanation] shows it.
type ExplainedRule struct {
	ID        string  `json:"id"`
	Order     float64 `json:"order"`
	Channel   string  `json:"channel"` // Channel.ID
	Action    string  `json:"action"`
	Hardening string  `json:"hardening,omitempty"` // of a Tunnel rule
}

// BeatenRule is a rule that covers a flow without deciding it.
type BeatenRule struct {
	ID      string  `json:"id"`
	Order   float64 `json:"order"`
	Channel string  `json:"channel"` // Channel.ID
	Action  string  `json:"action"`
	Why     string  `json:"why"`
}

// Explain decides f by p and says why. The generation is left for the caller to
// fill in, and so are the synthetic addresses of a name.
func Explain(p *Policy, f Flow) Explanation {
	if f.Name == "" {
		return ExplainDecision(p, f, p.Match(f))
	}
	f = f.canonical()
	return explainName(p, f, p.MatchName(f))
}

// ExplainDecision says why f, which goes to an address, got the decision d, as
// tables compiled from p gave it. The generation is left for the caller to fill in.
func ExplainDecision(p *Policy, f Flow, d Decision) Explanation {
	f = f.canonical()
	e := explanation(p, f, d)
	e.explainBeaten(p, f, d, func(r *Rule) bool { return r.coversAddr(f.Addr) })
	return e
}

// explanation returns all of an explanation but the rules that were beaten.
func explanation(p *Policy, f Flow, d Decision) Explanation {
	e := Explanation{
		Schema:      explanationSchema,
		Protocol:    f.Protocol.String(),
		Destination: f.Name,
		Name:        f.Name,
		Port:        f.Port,
		Verdict:     d.Verdict.String(),
		Reason:      d.Reason,
		Beaten:      []BeatenRule{},
	}
	if f.Name == "" && f.Addr.IsValid() {
		e.Destination = f.Addr.String()
	}
	if d.Rule >= 0 {
		e.Rule = p.Rules[d.Rule].explained()
	}
	if d.Protection >= 0 {
		e.Protection = p.Protected[d.Protection].Reason
	}
	return e
}

// explainBeaten lists the rules that cover f too, of those that hold its
// destination.
func (e *Explanation) explainBeaten(p *Policy, f Flow, d Decision, holds func(*Rule) bool) {
	for i := range p.Rules {
		rule := &p.Rules[i]
		if i <= d.Rule || !rule.coversPort(f) || !holds(rule) {
			continue
		}
		var why string
		switch {
		case d.Reason == ReasonNoName:
			why = "the destination is an address for names"
		case d.Rule < 0:
			why = "the destination is never acquired: " + e.Protection
		default:
			why = p.Rules[d.Rule].beats(rule, f.Addr)
		}
		e.beat(rule, why)
	}
}

func (e *Explanation) beat(rule *Rule, why string) {
	e.Beaten = append(e.Beaten, BeatenRule{rule.ID, rule.Order, rule.Channel, rule.Action.String(), why})
}

func (r *Rule) explained() *ExplainedRule {
	e := &ExplainedRule{ID: r.ID, Order: r.Order, Channel: r.Channel, Action: r.Action.String()}
	if r.Action == ActionTunnel {
		e.Hardening = r.Hardening.String()
	}
	return e
}

// beats says why r wins over a later rule that covers a flow to addr too.
func (r *Rule) beats(later *Rule, addr netip.Addr) string {
	wide, ok := r.narrowest(addr)
	narrow, both := later.narrowest(addr)
	switch {
	case later.Order == r.Order:
		return "same order, later in the profile"
	case ok && both && wide.wider(narrow):
		return "covered but more specific: order beats specificity"
	}
	return fmt.Sprintf("later in order (%s after %s)", orderText(later.Order), orderText(r.Order))
}

// narrowest returns the smallest range of r that holds addr, if one does.
func (r *Rule) narrowest(addr netip.Addr) (best AddrRange, ok bool) {
	for _, a := range r.Addrs {
		if addr.IsValid() && a.Contains(addr) && (!ok || best.wider(a)) {
			best, ok = a, true
		}
	}
	return best, ok
}

// wider reports whether r holds all of other, which is of the same family, and
// more.
func (r AddrRange) wider(other AddrRange) bool {
	return r != other && r.First.Compare(other.First) <= 0 && other.Last.Compare(r.Last) <= 0
}

// orderText returns an order as a profile would write it.
func orderText(order float64) string { return strconv.FormatFloat(order, 'f', -1, 64) }
