package policy

import "slices"

// maxComparisons bounds the work of the search for overlaps, which grows with
// the square of how many ranges lie inside one another.
const maxComparisons = 5_000_000

// overlapSearch finds pairs of rules of which the earlier has another action
// and a range around one of the later's.
type overlapSearch struct {
	rules       []Rule
	dead        []bool
	comparisons int
	known       map[[2]uint32]bool // pairs that need no second look
	found       *findings
}

// lintSpecificity finds the rules whose narrower ranges lose to an earlier
// rule. Rules that lose everything are reported as such elsewhere.
func lintSpecificity(p *Policy, dead []bool) []Finding {
	s := &overlapSearch{
		rules: p.Rules,
		dead:  dead,
		known: make(map[[2]uint32]bool),
		found: &findings{kind: FindingOrder},
	}
	isTunnel := func(r Rule) bool { return r.Action == ActionTunnel }
	isOther := func(r Rule) bool { return r.Action != ActionTunnel }
	if slices.ContainsFunc(p.Rules, isTunnel) && slices.ContainsFunc(p.Rules, isOther) {
		s.search(true)
		s.search(false)
	}
	list := s.found.all()
	if s.comparisons > maxComparisons {
		list = append(list, Finding{Kind: FindingOrder, Text: "there may be more: too many ranges overlap to compare them all"})
	}
	return list
}

// ruleRange is a range of a rule on the line of its family.
type ruleRange struct {
	first, last point
	rule, index uint32 // Policy.Rules[rule].Addrs[index]
}

func (r ruleRange) place() point { return r.first }

// wider reports whether r holds all of other and more.
func (r *ruleRange) wider(other *ruleRange) bool {
	return (r.first != other.first || r.last != other.last) &&
		r.first.compare(other.first) <= 0 && other.last.compare(r.last) <= 0
}

// search compares each range of one family with those that hold its start.
func (s *overlapSearch) search(is4 bool) {
	var ranges []ruleRange
	for i, rule := range s.rules {
		for j, r := range rule.Addrs {
			if r.First.Is4() == is4 {
				ranges = append(ranges, ruleRange{firstOf(r.First), lastOf(r.Last), uint32(i), uint32(j)})
			}
		}
	}
	sortByPlace(ranges)
	var around []*ruleRange // those that may hold the next one
	for i := range ranges {
		inner := &ranges[i]
		if s.comparisons += len(around); s.comparisons > maxComparisons {
			return
		}
		around = slices.DeleteFunc(around, func(r *ruleRange) bool { return r.last.compare(inner.first) < 0 })
		for _, outer := range around {
			s.compare(outer, inner)
			if outer.first == inner.first { // either may be the wider one
				s.compare(inner, outer)
			}
		}
		around = append(around, inner)
	}
}

// compare reports the pair if the outer range's rule beats the inner one's
// there.
func (s *overlapSearch) compare(outer, inner *ruleRange) {
	earlier, later := &s.rules[outer.rule], &s.rules[inner.rule]
	if outer.rule >= inner.rule || s.dead[inner.rule] || earlier.Action == later.Action || !outer.wider(inner) {
		return
	}
	pair := [2]uint32{outer.rule, inner.rule}
	if s.known[pair] {
		return
	}
	s.known[pair] = true
	if earlier.Protocols&later.Protocols == 0 || !portsMeet(earlier.Ports, later.Ports) {
		return
	}
	s.found.add(later.ID, earlier.ID, "%s of %s loses to %q (order %s, %s of %s): order beats specificity",
		later.Action, later.Addrs[inner.index], earlier.ID,
		orderText(earlier.Order), earlier.Action, earlier.Addrs[outer.index])
}

// portsMeet reports whether two lists share a port.
func portsMeet(a, b []PortRange) bool {
	return slices.ContainsFunc(a, func(x PortRange) bool {
		return slices.ContainsFunc(b, func(y PortRange) bool { return x.First <= y.Last && y.First <= x.Last })
	})
}
