package policy

import (
	"math/bits"
	"net/netip"
	"slices"
)

// NameRow returns the cells of a verdict row, Width of them, for a name whose
// patterns the rules of these indexes, ascending, have; see [Names.Rules].
// Original is the name's original address, or invalid for none, as is one in a
// pool; it counts only with Policy.AlsoMatchOriginal. The cells are like those of Verdicts; zero
// means that no rule of the name covers the class.
func (c *Compiled) NameRow(rules []int, original netip.Addr) []uint32 {
	r := nameRow{cells: make([]uint32, c.Width), left: make(classSet, len(c.all))}
	copy(r.left, c.all)
	p := c.policy
	original = original.Unmap().WithZone("")
	if !p.AlsoMatchOriginal || !original.IsValid() || p.inPool(original) {
		for _, i := range rules {
			r.takeRule(c, i, c.all)
		}
		return r.cells
	}
	open := slices.Clone(c.all) // where the address is not protected
	for i := range p.Protected {
		if p.Protected[i].Prefix.Contains(original) {
			open.remove(c.sets[len(p.Rules)+i])
		}
	}
	for i := range p.Rules {
		switch _, named := slices.BinarySearch(rules, i); {
		case named:
			r.takeRule(c, i, c.all)
		case p.Rules[i].coversAddr(original):
			r.takeRule(c, i, open)
		}
	}
	return r.cells
}

// nameRow is a verdict row in the making.
type nameRow struct {
	cells []uint32
	left  classSet // classes that are not decided yet
}

// takeRule gives rule i of c what it covers within a set, and to its rejection
// QUIC where the rule got TCP.
func (r *nameRow) takeRule(c *Compiled, i int, within classSet) {
	r.take(uint32(i)+1, c.sets[i], within)
	tcp := r.cells[c.Ports.Of(TCP, quicPort)]
	if rejection, ok := c.rejections[i]; ok && tcp == uint32(i)+1 {
		r.take(uint32(rejection)+1, c.sets[rejection], within)
	}
}

// take gives value to the classes of set that lie within another and that
// nothing stronger took.
func (r *nameRow) take(value uint32, set, within classSet) {
	for i, word := range set {
		won := word & within[i] & r.left[i]
		r.left[i] &^= won
		for ; won != 0; won &= won - 1 {
			r.cells[i*bitsPerWord+bits.TrailingZeros64(won)] = value
		}
	}
}

// Acquires reports whether a name with these cells is acquired: whether a
// Tunnel rule wins one. It returns the first such rule.
func (c *Compiled) Acquires(cells []uint32) (rule int, ok bool) {
	for _, cell := range cells {
		if cell == 0 {
			continue
		}
		e := &c.Entries[cell-1]
		if e.Kind == EntryRule && e.Action == ActionTunnel && (!ok || e.Rule < rule) {
			rule, ok = e.Rule, true
		}
	}
	return rule, ok
}
