package policy

import (
	"cmp"
	"slices"
	"strings"
)

// nameShadows finds rules whose names are all taken by earlier rules. Whether
// one regular expression covers another is not decided in general: plain
// patterns are compared by what they hold, and others are known to be covered by
// the same pattern and by one for every name.
type nameShadows struct {
	rules    []Rule
	byShape  map[shape][]int  // rules that have the shape, each once
	bySource map[string][]int // rules that have the pattern, if it is not plain
}

func newNameShadows(p *Policy) *nameShadows {
	s := &nameShadows{rules: p.Rules, byShape: make(map[shape][]int), bySource: make(map[string][]int)}
	for i, rule := range p.Rules {
		for _, name := range rule.Names {
			for _, shape := range name.shapes {
				s.byShape[shape] = appendOnce(s.byShape[shape], i)
			}
			if name.regexp != nil {
				s.bySource[name.Source] = appendOnce(s.bySource[name.Source], i)
			}
		}
	}
	return s
}

// appendOnce appends n to an ascending list, unless it ends with n.
func appendOnce(list []int, n int) []int {
	if len(list) > 0 && list[len(list)-1] == n {
		return list
	}
	return append(list, n)
}

// of reports whether rule i has names and earlier rules take all of them, and
// one rule that does.
func (s *nameShadows) of(i int) (by int, ok bool) {
	for _, name := range s.rules[i].Names {
		if by, ok = s.pattern(i, name); !ok {
			return 0, false
		}
	}
	return by, ok
}

// pattern returns an earlier rule that takes all names of a pattern of rule i,
// or the last one that takes some if they do so together.
func (s *nameShadows) pattern(i int, name NamePattern) (by int, ok bool) {
	if name.regexp != nil {
		if by, ok = s.taker(i, s.bySource[name.Source]); ok {
			return by, true
		}
		return s.taker(i, s.byShape[shape{reach: reachBelow}])
	}
	for _, held := range name.shapes {
		if by, ok = s.shape(i, held); !ok {
			return 0, false
		}
	}
	return by, ok
}

// shape returns an earlier rule that takes all names of a shape of rule i.
func (s *nameShadows) shape(i int, held shape) (by int, ok bool) {
	for around := range held.around {
		if by, ok = s.taker(i, s.byShape[around]); ok {
			return by, true
		}
	}
	return 0, false
}

// around yields each shape that holds all names of s, s itself first.
func (s shape) around(yield func(shape) bool) {
	if !yield(s) || s.reach == reachLabel && !yield(shape{reachBelow, s.suffix}) {
		return
	}
	above := reachLabel // how a suffix further up holds an exact name
	if s.reach != reachExact {
		above = reachBelow
	}
	for suffix, more := s.suffix, s.suffix != ""; more; above = reachBelow {
		if _, suffix, _ = strings.Cut(suffix, "."); !yield(shape{above, suffix}) {
			return
		}
		if above == reachLabel && !yield(shape{reachBelow, suffix}) {
			return
		}
		more = suffix != ""
	}
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
