package policy

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
)

// nameBuilder collects the patterns of rules into [Names].
type nameBuilder struct {
	plain  []keyedEntry
	groups map[groupKey]*groupSources
}

// keyedEntry is an entry and the suffix that leads to it.
type keyedEntry struct {
	key string
	nameEntry
}

// groupKey is what regular expressions of one group have in common.
type groupKey struct {
	needle
	rule uint32
}

// groupSources is a group that is not compiled yet.
type groupSources struct {
	sources  []string
	compiled group // each on its own
}

func (b *nameBuilder) add(rule uint32, patterns []NamePattern) {
	for _, p := range patterns {
		for _, s := range p.shapes {
			b.plain = append(b.plain, keyedEntry{s.suffix, nameEntry{rule: rule, reach: s.reach}})
		}
		if p.regexp == nil {
			continue
		}
		for _, n := range p.needles {
			b.addTo(groupKey{n, rule}, p)
		}
		if len(p.needles) == 0 {
			b.addTo(groupKey{rule: rule}, p)
		}
	}
}

func (b *nameBuilder) addTo(key groupKey, p NamePattern) {
	g := b.groups[key]
	if g == nil {
		g = new(groupSources)
		b.groups[key] = g
	}
	g.sources = append(g.sources, "(?:"+p.Source+")")
	g.compiled = append(g.compiled, p.regexp)
}

// compile returns the group as one regular expression where that can be: names
// of its subexpressions may clash.
func (g *groupSources) compile() group {
	if len(g.sources) == 1 {
		return g.compiled
	}
	if all, err := regexp.Compile(anchored(strings.Join(g.sources, "|"))); err == nil {
		return group{all}
	}
	return g.compiled
}

// names returns what was collected, compiled.
func (b *nameBuilder) names() *Names {
	n := &Names{bySuffix: make(map[string]span), byLabel: make(map[string]span)}
	suffixes, labels, all := b.plain, []keyedEntry(nil), []keyedEntry(nil)
	for key, sources := range b.groups {
		entry := keyedEntry{key.text, nameEntry{rule: key.rule, group: uint32(len(n.groups))}}
		n.groups = append(n.groups, sources.compile())
		switch {
		case key.suffix:
			suffixes = append(suffixes, entry)
		case key.text != "":
			labels = append(labels, entry)
		default:
			all = append(all, entry)
		}
	}
	n.entries = make([]nameEntry, 0, len(suffixes)+len(labels)+len(all))
	for key, entries := range n.index(suffixes) {
		n.bySuffix[key] = entries
		n.lengths[len(key)] = true
	}
	for key, entries := range n.index(labels) {
		n.byLabel[key] = entries
	}
	for _, entries := range n.index(all) {
		n.unkeyed = entries
	}
	return n
}

// index appends the entries to those of n, each once, and yields where those of
// one key are.
func (n *Names) index(list []keyedEntry) func(yield func(string, span) bool) {
	slices.SortFunc(list, func(a, b keyedEntry) int {
		return cmp.Or(strings.Compare(a.key, b.key), cmp.Compare(a.rule, b.rule),
			cmp.Compare(a.reach, b.reach), cmp.Compare(a.group, b.group))
	})
	list = slices.Compact(list)
	return func(yield func(string, span) bool) {
		for len(list) > 0 {
			same := 1
			for same < len(list) && list[same].key == list[0].key {
				same++
			}
			first := uint32(len(n.entries))
			for _, e := range list[:same] {
				n.entries = append(n.entries, e.nameEntry)
			}
			if !yield(list[0].key, span{first, uint32(len(n.entries))}) {
				return
			}
			list = list[same:]
		}
	}
}
