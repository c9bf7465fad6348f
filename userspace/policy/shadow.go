package policy

import (
	"cmp"
	"slices"
)

// nameShadows finds rules whose names are all taken by earlier rules. Whether
// one regular expression covers another is not decided in general: only the
// same pattern, and one for every name, are known to cover.
type nameShadows struct {
	rules    []Rule
	bySource map[string][]int // rules that have the pattern
	all      []int            // rules that have a pattern for every name
}

func newNameShadows(p *Policy) *nameShadows {
	s := &nameShadows{rules: p.Rules, bySource: make(map[string][]int)}
	for i, rule := range p.Rules {
		for _, name := range rule.Names {
			s.bySource[name.Source] = append(s.bySource[name.Source], i)
			if name.coversAll() {
				s.all = append(s.all, i)
			}
		}
	}
	return s
}

// coversAll reports whether the pattern is known to match every name. The
// vendor's acquire-all rule has the empty pattern.
func (n NamePattern) coversAll() bool {
	switch n.Source {
	case "", ".*", ".+":
		return n.Regexp.MatchString("x")
	}
	return false
}

// of reports whether rule i has names and earlier rules take all of them, and
// one rule that does.
func (s *nameShadows) of(i int) (by int, ok bool) {
	rule := &s.rules[i]
	if by, ok = s.taker(i, s.all); ok {
		return by, len(rule.Names) > 0
	}
	for _, name := range rule.Names {
		if by, ok = s.taker(i, s.bySource[name.Source]); !ok {
			return 0, false
		}
	}
	return by, ok
}

// taker returns the first of the rules that comes before rule i and covers its
// ports and protocols.
func (s *nameShadows) taker(i int, rules []int) (int, bool) {
	rule := &s.rules[i]
	for _, earlier := range rules {
		switch r := &s.rules[earlier]; {
		case earlier >= i:
			return 0, false
		case r.Protocols&rule.Protocols == rule.Protocols && portsCover(r.Ports, rule.Ports):
			return earlier, true
		}
	}
	return 0, false
}

// portsCover reports whether the ports of ranges include those of others.
func portsCover(ranges, others []PortRange) bool {
	sorted := slices.SortedFunc(slices.Values(ranges), func(a, b PortRange) int { return cmp.Compare(a.First, b.First) })
	return !slices.ContainsFunc(others, func(o PortRange) bool {
		next := int(o.First) // the first port that is not yet known to be covered
		for _, r := range sorted {
			if int(r.First) <= next {
				next = max(next, int(r.Last)+1)
			}
		}
		return next <= int(o.Last)
	})
}
