package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// FindingKind tells the findings of [Lint] apart.
type FindingKind string

// The kinds of findings. None makes a policy invalid.
const (
	// FindingShadowed is a rule that never decides, as earlier rules take
	// every flow that it covers.
	FindingShadowed FindingKind = "shadowed"

	// FindingNeverMatches is a rule that no flow can match whatever the
	// other rules are.
	FindingNeverMatches FindingKind = "never-matches"

	// FindingOrder is a rule that loses a part of its destinations to an
	// earlier rule with another action and a wider range around them.
	FindingOrder FindingKind = "order-beats-specificity"

	// FindingHardening is a Bypass rule that asks for Block.
	FindingHardening FindingKind = "meaningless-hardening"

	// FindingQUIC is a rule that asks for QUIC to be rejected where that
	// cannot be.
	FindingQUIC FindingKind = "meaningless-quic"

	// FindingEqualOrder is two rules that only their sequence orders.
	FindingEqualOrder FindingKind = "equal-order"

	// FindingChannelOrder is a rule that comes before one of a channel that
	// the vendor evaluates earlier.
	FindingChannelOrder FindingKind = "channel-order"

	// FindingPool is a policy whose Tunnel rules name hosts that cannot be
	// acquired, as there is no pool or it cannot be used.
	FindingPool FindingKind = "unusable-pool"

	// FindingBudget is a policy that exceeds the default budget. It is then
	// not searched for shadowed rules.
	FindingBudget FindingKind = "over-budget"
)

// Finding is something in a policy that its author may not have meant.
type Finding struct {
	Kind  FindingKind
	Rule  string // Rule.ID, or empty if the finding is about the whole policy
	Other string // Rule.ID of the other rule of a pair, one of them if there are several, or empty
	Text  string // for people: a sentence without full stop
}

// maxFindings is how many findings of one kind are listed.
const maxFindings = 100

// findings collects findings of one kind.
type findings struct {
	kind FindingKind
	list []Finding
	more int
}

func (f *findings) add(rule, other string, format string, args ...any) {
	if f.full() {
		f.more++
		return
	}
	f.list = append(f.list, Finding{f.kind, rule, other, fmt.Sprintf(format, args...)})
}

func (f *findings) full() bool { return len(f.list) == maxFindings }

// all returns the findings, the last of which says how many are not listed.
func (f *findings) all() []Finding {
	if f.more > 0 {
		f.list = append(f.list, Finding{Kind: f.kind, Text: fmt.Sprintf("%d more like these are not listed", f.more)})
	}
	return f.list
}

// Lint returns what the author of a policy that compiles may not have meant,
// kind by kind and in the order of the rules. At most 100 findings of a kind
// are listed; one without rule then says how many more there are.
func Lint(p *Policy) []Finding {
	dead, found := lintDead(p)
	return slices.Concat(
		found,
		lintSpecificity(p, dead),
		lintHardening(p),
		lintQUIC(p),
		lintEqualOrders(p),
		lintChannelOrder(p),
		lintPool(p),
	)
}

// lintDead finds the rules that decide no flow, and says which they are.
func lintDead(p *Policy) (dead []bool, found []Finding) {
	dead = make([]bool, len(p.Rules))
	wins, err := winners(p)
	if err != nil {
		return dead, []Finding{{Kind: FindingBudget, Text: err.Error()}}
	}
	names := newNameShadows(p)
	never, shadowed := &findings{kind: FindingNeverMatches}, &findings{kind: FindingShadowed}
	for i, rule := range p.Rules {
		by, named := names.of(i)
		dead[i] = !wins[i] && (len(rule.Names) == 0 || named)
		switch {
		case !dead[i]:
		case len(rule.Addrs) == 0 && len(rule.Names) == 0:
			never.add(rule.ID, "", "matches nothing: it has neither addresses nor names")
		case len(rule.Ports) == 0 || rule.Protocols&AnyProtocol == 0:
			never.add(rule.ID, "", "matches nothing: it has no ports or no protocol")
		case len(rule.Names) == 0 && onlyProtected(p, i):
			never.add(rule.ID, "", "covers only destinations that are never acquired")
		case shadowed.full():
			shadowed.more++
		default:
			if len(rule.Addrs) > 0 {
				by = p.winnerWithin(i)
			}
			shadowed.add(rule.ID, p.idOf(by), "never decides: earlier rules take every flow that it covers")
		}
	}
	return dead, append(never.all(), shadowed.all()...)
}

// winners says of each rule whether it decides the flow to any address.
func winners(p *Policy) ([]bool, error) {
	compiled, err := Compile(p, Budget{})
	if err != nil {
		return nil, err
	}
	wins := make([]bool, len(compiled.Entries)+1)
	for _, cell := range compiled.Verdicts {
		wins[cell] = true
	}
	return wins[1:], nil
}

// onlyProtected reports whether rule i would not decide a flow even if it was
// the only rule.
func onlyProtected(p *Policy, i int) bool {
	protected := func(addr netip.Addr) bool {
		return slices.ContainsFunc(p.Protected, func(x Protection) bool { return x.Prefix.Contains(addr) })
	}
	for _, r := range p.Rules[i].Addrs {
		if !protected(r.First) || !protected(r.Last) {
			return false // as nearly every rule; spares it a compilation
		}
	}
	wins, err := winners(&Policy{Rules: p.Rules[i : i+1], Protected: p.Protected})
	return err == nil && !wins[0]
}

// winnerWithin returns the rule that decides flows at an end of one of rule
// i's ranges, or -1 if all those are protected.
func (p *Policy) winnerWithin(i int) int {
	rule := p.Rules[i]
	protocol := rule.Protocols & TCP
	if protocol == 0 {
		protocol = UDP
	}
	for _, r := range rule.Addrs {
		for _, addr := range []netip.Addr{r.First, r.Last} {
			d := p.Match(Flow{Protocol: protocol, Addr: addr, Port: rule.Ports[0].First})
			if d.Rule >= 0 {
				return d.Rule
			}
		}
	}
	return -1
}

// idOf returns the name of a rule, or nothing for no rule.
func (p *Policy) idOf(rule int) string {
	if rule < 0 {
		return ""
	}
	return p.Rules[rule].ID
}

func lintHardening(p *Policy) []Finding {
	found := &findings{kind: FindingHardening}
	for _, rule := range p.Rules {
		if rule.Action == ActionBypass && rule.Hardening == HardeningBlock {
			found.add(rule.ID, "", "hardening block has no effect: a bypass rule needs no channel")
		}
	}
	return found.all()
}

func lintEqualOrders(p *Policy) []Finding {
	found := &findings{kind: FindingEqualOrder}
	for i := 1; i < len(p.Rules); i++ {
		rule, before := p.Rules[i], p.Rules[i-1]
		if rule.Order == before.Order {
			found.add(rule.ID, before.ID, "has order %s like %q: the profile's sequence decides",
				orderText(rule.Order), before.ID)
		}
	}
	return found.all()
}

// lintPool reports once that names cannot be acquired. A policy that no agent
// has given its pools yet is judged by that of the profile.
func lintPool(p *Policy) []Finding {
	i := slices.IndexFunc(p.Rules, func(r Rule) bool { return r.Action == ActionTunnel && len(r.Names) > 0 })
	pools := p.Pools
	if len(pools) == 0 && p.Settings.SyntheticPool.IsValid() {
		pools = []netip.Prefix{p.Settings.SyntheticPool}
	}
	found := &findings{kind: FindingPool}
	switch {
	case i < 0:
	case len(pools) == 0:
		found.add(p.Rules[i].ID, "", "acquires no names: the profile has no pool for synthetic addresses")
	default:
		for _, pool := range pools {
			if err := CheckPool(p, pool); err != nil {
				found.add(p.Rules[i].ID, "", "acquires no names: %v", err)
			}
		}
	}
	return found.all()
}

// channelRank returns when the vendor evaluates a channel of this name, and
// false for names of which nothing is known.
func channelRank(name string) (int, bool) {
	name = strings.ToLower(name)
	for rank, part := range []string{"365", "private", "internet"} {
		if strings.Contains(name, part) {
			return rank, true
		}
	}
	return 0, false
}

// lintChannelOrder reports once for two channels that the first rule of the
// one that is evaluated later comes before a rule of the other.
func lintChannelOrder(p *Policy) []Finding {
	names := make(map[string]string)
	for _, c := range p.Channels {
		names[c.ID] = c.Name
	}
	found := &findings{kind: FindingChannelOrder}
	first := make(map[string]Rule) // by channel
	told := make(map[[2]string]bool)
	for _, rule := range p.Rules {
		rank, ok := channelRank(names[rule.Channel])
		if !ok {
			continue
		}
		if _, ok := first[rule.Channel]; !ok {
			first[rule.Channel] = rule
		}
		for _, c := range p.Channels {
			before, ok := first[c.ID]
			other, _ := channelRank(c.Name)
			pair := [2]string{c.ID, rule.Channel}
			if !ok || other <= rank || before.Order >= rule.Order || told[pair] {
				continue
			}
			told[pair] = true
			found.add(before.ID, rule.ID, "order %s of channel %q comes before order %s of channel %q, which is evaluated first",
				orderText(before.Order), names[before.Channel], orderText(rule.Order), names[rule.Channel])
		}
	}
	return found.all()
}
