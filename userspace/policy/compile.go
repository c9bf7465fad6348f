package policy

import (
	"errors"
	"fmt"
	"net/netip"
)

// errRange says that no flow can lie in a range: its ends are in the wrong
// order, of two families, have a zone, or are IPv4-mapped.
var errRange = errors.New("not an ascending range of IPv4 or IPv6 addresses")

// EntryKind tells the entries of a compiled policy apart. The zero value is no
// entry.
type EntryKind uint8

// The kinds of entries.
const (
	EntryRule EntryKind = iota + 1
	EntryProtection
	EntryPool
	EntryRejection
)

// Entry is what a cell of the verdict table refers to. The position in
// [Compiled.Entries] of a rule is its position in [Policy.Rules]; protections
// follow after the last rule, then pools, then rejections of QUIC.
type Entry struct {
	Kind       EntryKind
	Rule       int       // index in Policy.Rules, also of a rejection, or -1
	Protection int       // index in Policy.Protected, or -1
	Pool       int       // index in Policy.Pools, or -1
	Action     Action    // of the rule; ActionReject of a rejection; zero for others
	Hardening  Hardening // of the rule, also of a rejection's; zero for others
	Channel    string    // Channel.ID of the rule, also of a rejection's; empty for others
}

// Decision returns the decision for a flow that the entry wins.
func (e Entry) Decision() Decision {
	d := Decision{Verdict: VerdictPass, Reason: ReasonRule, Rule: e.Rule, Protection: e.Protection}
	switch {
	case e.Kind == EntryPool:
		d.Verdict, d.Reason = VerdictBlock, ReasonNoName
	case e.Kind == EntryRejection:
		d.Verdict, d.Reason = VerdictBlock, ReasonQUIC
	case e.Kind == EntryProtection:
		d.Reason = ReasonNeverAcquired
	case e.Action == ActionTunnel:
		d.Verdict = VerdictAcquire
	}
	return d
}

// Compiled is a policy as tables that answer in constant time: the longest
// prefix that holds the address gives a row, protocol and port give a class,
// and cell Verdicts[row+class] gives the entry. It says the same as
// [Policy.Match] for every address; names get rows of their own from
// [Compiled.NameRow]. It is immutable, and keeps the policy that it was compiled
// from, which must not change either.
type Compiled struct {
	IPv4, IPv6 []PrefixRow  // sorted, without duplicates; no prefix means no match
	Ports      *PortClasses // class by protocol and port
	Width      uint32       // number of classes, at least 1
	Verdicts   []uint32     // cells: index in Entries + 1, or 0 for no match; the first row is all zero
	Entries    []Entry      // rules, then protections, then pools, then rejections

	policy     *Policy
	all        classSet    // every class
	sets       []classSet  // by entry
	rejections map[int]int // by rule, its rejection's index in Entries
}

// claim is what one entry asks for. Claims are listed strongest first.
type claim struct {
	value     uint32 // what its cells hold
	beside    uint32 // if not 0: it is void where TCP 443 has a cell other than this
	addrs     []AddrRange
	ports     []PortRange
	protocols Protocols
}

// Compile flattens p into tables. It returns a *[BudgetError] if they would
// cost more than budget allows, before the memory is spent, and another error
// if an address range of p is malformed.
func Compile(p *Policy, budget Budget) (*Compiled, error) {
	if err := p.checkRanges(); err != nil {
		return nil, err
	}
	budget = budget.withDefaults()
	claims := p.claims()
	classes, err := classify(claims, budget.Classes)
	if err != nil {
		return nil, err
	}
	verdicts, err := newVerdictTable(classes, claims, budget.Cells)
	if err != nil {
		return nil, err
	}
	total := classes.total()
	ipv4, err := flatten(sweepOf(claims, true), newCoverTree(total), verdicts,
		&prefixTable{is4: true, most: budget.IPv4Prefixes})
	if err != nil {
		return nil, err
	}
	// Covers of the two families are named by different trees.
	verdicts.known = nil
	ipv6, err := flatten(sweepOf(claims, false), newCoverTree(total), verdicts,
		&prefixTable{most: budget.IPv6Prefixes})
	if err != nil {
		return nil, err
	}
	c := &Compiled{
		IPv4:     ipv4,
		IPv6:     ipv6,
		Ports:    classes.ports,
		Width:    uint32(classes.width),
		Verdicts: verdicts.cells,
		Entries:  p.entries(),
		policy:   p,
		all:      classes.all(),
		sets:     make([]classSet, len(claims)),

		rejections: make(map[int]int),
	}
	for i, claim := range claims {
		c.sets[claim.value-1] = classes.sets[i]
	}
	for i, e := range c.Entries {
		if e.Kind == EntryRejection {
			c.rejections[e.Rule] = i
		}
	}
	if n := c.Bytes(); n > budget.Bytes {
		return nil, &BudgetError{"bytes", n, budget.Bytes, "use fewer destinations"}
	}
	return c, nil
}

// flatten walks the addresses of one family into the prefixes of table, and
// adds the rows that they need to verdicts.
func flatten(s *sweep, tree *coverTree, verdicts *verdictTable, table *prefixTable) ([]PrefixRow, error) {
	table.reserve(len(s.begins))
	var first point // of the run that is still open, and its row
	var open uint32
	for at, cover := range s.runs(tree) {
		row, err := verdicts.rowOf(tree, cover)
		switch {
		case err != nil:
			return nil, err
		case row == open:
			continue
		case at != point{}:
			table.add(first, at.previous(), open)
		}
		first, open = at, row
	}
	table.add(first, lastPoint(), open)
	return table.prefixes()
}

// sweepOf returns a sweep over the addresses of one family.
func sweepOf(claims []claim, is4 bool) *sweep {
	n := 0
	for _, c := range claims {
		for _, r := range c.addrs {
			if r.First.Is4() == is4 {
				n++
			}
		}
	}
	s := newSweep(n)
	for i, c := range claims {
		for _, r := range c.addrs {
			if r.First.Is4() == is4 {
				s.add(firstOf(r.First), lastOf(r.Last), uint32(i))
			}
		}
	}
	return s
}

// claims lists what the entries of p ask for: pools, as nothing else can be
// meant by their addresses, and protections before rules.
func (p *Policy) claims() []claim {
	claims := make([]claim, 0, len(p.Pools)+len(p.Protected)+len(p.Rules))
	for i, pool := range p.Pools {
		claims = append(claims, claim{
			value:     uint32(len(p.Rules)+len(p.Protected)+i) + 1,
			addrs:     []AddrRange{rangeOf(pool)},
			ports:     []PortRange{AllPorts()},
			protocols: AnyProtocol,
		})
	}
	for i, protected := range p.Protected {
		claims = append(claims, claim{
			value:     uint32(len(p.Rules)+i) + 1,
			addrs:     []AddrRange{rangeOf(protected.Prefix)},
			ports:     []PortRange{protected.Ports},
			protocols: AnyProtocol,
		})
	}
	rejections := uint32(len(p.Rules) + len(p.Protected) + len(p.Pools))
	for i := range p.Rules {
		rule := &p.Rules[i]
		own := claim{
			value:     uint32(i) + 1,
			addrs:     rule.Addrs,
			ports:     rule.Ports,
			protocols: rule.Protocols & AnyProtocol,
		}
		claims = append(claims, own)
		if rule.rejectsQUIC() {
			rejections++
			claims = append(claims, claim{
				value:     rejections,
				beside:    own.value,
				addrs:     rule.Addrs,
				ports:     []PortRange{{quicPort, quicPort}},
				protocols: UDP,
			})
		}
	}
	return claims
}

// rangeOf returns the addresses of prefix.
func rangeOf(prefix netip.Prefix) AddrRange {
	first := prefix.Masked().Addr()
	return AddrRange{first, firstOf(first).end(prefix.Bits()).addr(first.Is4())}
}

func (p *Policy) entries() []Entry {
	entries := make([]Entry, 0, len(p.Rules)+len(p.Protected)+len(p.Pools))
	for i, rule := range p.Rules {
		entries = append(entries, Entry{EntryRule, i, -1, -1, rule.Action, rule.Hardening, rule.Channel})
	}
	for i := range p.Protected {
		entries = append(entries, Entry{Kind: EntryProtection, Rule: -1, Protection: i, Pool: -1})
	}
	for i := range p.Pools {
		entries = append(entries, Entry{Kind: EntryPool, Rule: -1, Protection: -1, Pool: i})
	}
	for i, rule := range p.Rules {
		if rule.rejectsQUIC() {
			entries = append(entries, Entry{EntryRejection, i, -1, -1, ActionReject, rule.Hardening, rule.Channel})
		}
	}
	return entries
}

// checkRanges rejects what [Policy.Match] would silently never match.
func (p *Policy) checkRanges() error {
	for _, rule := range p.Rules {
		for _, r := range rule.Addrs {
			if !r.valid() {
				return fmt.Errorf("compile rule %q: range %s: %w", rule.ID, r, errRange)
			}
		}
	}
	for _, protected := range p.Protected {
		if !protected.Prefix.IsValid() || !rangeOf(protected.Prefix).valid() {
			return fmt.Errorf("compile protection %q: prefix %s: %w", protected.Reason, protected.Prefix, errRange)
		}
	}
	for _, pool := range p.Pools {
		if !pool.IsValid() || !rangeOf(pool).valid() {
			return fmt.Errorf("compile pool %s: %w", pool, errRange)
		}
	}
	return nil
}

// valid reports whether r holds addresses in the form that flows have.
func (r AddrRange) valid() bool {
	return r.First.IsValid() && r.First.BitLen() == r.Last.BitLen() && !r.Last.Less(r.First) &&
		r.First.Zone() == "" && r.Last.Zone() == "" &&
		!(r.First.Is4In6() && r.Last.Is4In6())
}
