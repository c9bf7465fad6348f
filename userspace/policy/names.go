package policy

import (
	"regexp"
	"slices"
	"strings"
)

// Names matches a host name with the name patterns of all rules at once. It is
// immutable.
//
// Plain patterns are found by the suffixes of the name, and so are regular
// expressions that end in literal labels; others by a label that they ask for,
// or not at all. Those of one rule that are found together are one regular
// expression. So a look-up costs by the length of the name and by the regular
// expressions that are in question, not by how many patterns there are.
type Names struct {
	bySuffix  map[string]span
	byLabel   map[string]span // regular expressions that ask for this label
	unkeyed   span            // regular expressions of which nothing is known
	entries   []nameEntry
	groups    []group
	lengths   [maxNameOctets + 1]bool // of keys of bySuffix
	protected protectedNames
}

// span is a part of Names.entries.
type span struct {
	first, end uint32
}

// nameEntry says that a rule is in question for a name.
type nameEntry struct {
	rule  uint32
	reach reach  // of the suffix that led here; zero if a group of regular expressions decides
	group uint32 // index in Names.groups
}

// group is the regular expressions of one rule under one key.
type group []*regexp.Regexp

func (g group) matches(name string) bool {
	return slices.ContainsFunc(g, func(re *regexp.Regexp) bool { return re.MatchString(name) })
}

// NewNames compiles the name patterns of p's rules.
func NewNames(p *Policy) *Names {
	b := &nameBuilder{groups: make(map[groupKey]*groupSources)}
	for i := range p.Rules {
		b.add(uint32(i), p.Rules[i].Names)
	}
	n := b.names()
	n.protected = p.protectedNames()
	return n
}

// Rules returns the indexes in Policy.Rules of the rules that have a pattern
// for name, ascending. It returns none for a name that is never acquired, see
// [Policy.ProtectedName], and for what is no name.
func (n *Names) Rules(name string) []int {
	name, ok := CanonicalName(name)
	if !ok {
		return nil
	}
	if _, protected := n.protected.reason(name); protected {
		return nil
	}
	var rules []int
	n.each(name, func(rule uint32) { rules = append(rules, int(rule)) })
	slices.Sort(rules)
	return slices.Compact(rules)
}

// each calls found with each rule that has a pattern for the canonical name, now
// and then more than once.
func (n *Names) each(name string, found func(rule uint32)) {
	n.check(n.unkeyed, name, reachBelow, found)
	if len(n.byLabel) > 0 {
		for label := range strings.SplitSeq(name, ".") {
			n.check(n.byLabel[label], name, reachBelow, found)
		}
	}
	at, suffix := reachExact, name
	for more := true; ; at = min(at+1, reachBelow) {
		if len(suffix) < len(n.lengths) && n.lengths[len(suffix)] {
			n.check(n.bySuffix[suffix], name, at, found)
		}
		if !more {
			return
		}
		_, suffix, more = strings.Cut(suffix, ".")
	}
}

// check calls found with the rules of entries that hold name, which is as far
// from the key that led to them as at says.
func (n *Names) check(entries span, name string, at reach, found func(rule uint32)) {
	for _, e := range n.entries[entries.first:entries.end] {
		switch {
		case e.reach == 0 && n.groups[e.group].matches(name),
			e.reach == at,
			e.reach == reachBelow && at == reachLabel:
			found(e.rule)
		}
	}
}
