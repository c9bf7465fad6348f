package policy

import (
	"net/netip"
	"slices"
)

// maxTunnelled is how many prefixes [Policy.TunnelPrefixes] returns at most.
const maxTunnelled = 1024

// TunnelPrefixes returns the prefixes that hold just the addresses which a
// Tunnel rule wins on some port, and the pools, sorted and without overlap. So
// a route to one of them may lead where flows are to be acquired.
//
// Ranges of a whole address family do not count, as they mean whatever else
// there is: the default route says more of them. Where there would be more than
// 1,024 prefixes, neighbours are joined into shorter ones that hold other
// addresses as well. It costs about as much as [Compile]; a policy that does not
// compile within the default budget has none.
func (p *Policy) TunnelPrefixes() []netip.Prefix {
	narrow := *p
	narrow.Rules = slices.Clone(p.Rules)
	for i := range narrow.Rules {
		if rule := &narrow.Rules[i]; rule.Action == ActionTunnel {
			rule.Addrs = slices.DeleteFunc(slices.Clone(rule.Addrs), AddrRange.wholeFamily)
		}
	}
	compiled, err := Compile(&narrow, Budget{})
	if err != nil {
		return nil
	}
	return slices.Concat(
		compiled.tunnelled(compiled.IPv4, true),
		compiled.tunnelled(compiled.IPv6, false),
	)
}

// tunnelled returns the prefixes of one family, of which rows are the table.
func (c *Compiled) tunnelled(rows []PrefixRow, is4 bool) []netip.Prefix {
	var runs []run
	var around []PrefixRow // the prefixes that hold the place, outermost first
	var at point
	upTo := func(last point) {
		if len(around) > 0 && at.compare(last) <= 0 && c.tunnels(around[len(around)-1].Row) {
			runs = appendRun(runs, run{at, last})
		}
	}
	leave := func(inside func(PrefixRow) bool) {
		for n := len(around); n > 0 && !inside(around[n-1]); n-- {
			end := lastIn(around[n-1].Prefix)
			upTo(end)
			around = around[:n-1]
			if end == lastPoint() {
				return
			}
			at = end.next()
		}
	}
	for _, row := range rows {
		leave(func(r PrefixRow) bool { return r.Prefix.Overlaps(row.Prefix) })
		first := firstOf(row.Prefix.Addr())
		if first != (point{}) {
			upTo(first.previous())
		}
		around, at = append(around, row), first
	}
	leave(func(PrefixRow) bool { return false })
	return prefixesOf(runs, is4)
}

// tunnels reports whether a row of the verdict table has flows acquired.
func (c *Compiled) tunnels(row uint32) bool {
	return slices.ContainsFunc(c.Verdicts[row:row+c.Width], func(cell uint32) bool {
		if cell == 0 {
			return false
		}
		e := &c.Entries[cell-1]
		return e.Kind == EntryPool || e.Kind == EntryRule && e.Action == ActionTunnel
	})
}

// run is a part of the line of one family.
type run struct {
	first, last point
}

// appendRun appends a run that does not begin before the last one of runs, with
// which it is joined where they meet.
func appendRun(runs []run, r run) []run {
	if n := len(runs); n > 0 {
		before := &runs[n-1]
		if before.last == lastPoint() || r.first.compare(before.last.next()) <= 0 {
			if before.last.compare(r.last) < 0 {
				before.last = r.last
			}
			return runs
		}
	}
	return append(runs, r)
}

// lastIn returns the last point of prefix.
func lastIn(prefix netip.Prefix) point { return firstOf(prefix.Addr()).end(prefix.Bits()) }

// prefixesOf returns runs as at most half of maxTunnelled prefixes, which may
// then hold more than the runs.
func prefixesOf(runs []run, is4 bool) []netip.Prefix {
	bits := 128
	if is4 {
		bits = 32
	}
	for {
		if prefixes, ok := split(runs, is4); ok {
			return prefixes
		}
		bits /= 2
		var wider []run
		for _, r := range runs {
			wider = appendRun(wider, run{
				firstOf(netip.PrefixFrom(r.first.addr(is4), bits).Masked().Addr()),
				lastIn(netip.PrefixFrom(r.last.addr(is4), bits).Masked()),
			})
		}
		runs = wider
	}
}

// split cuts runs into prefixes, unless they are too many.
func split(runs []run, is4 bool) (prefixes []netip.Prefix, ok bool) {
	for _, r := range runs {
		for at := r.first; ; {
			if len(prefixes) == maxTunnelled/2 {
				return nil, false
			}
			bits := at.prefixBits(r.last)
			prefixes = append(prefixes, netip.PrefixFrom(at.addr(is4), bits))
			end := at.end(bits)
			if end == r.last {
				break
			}
			at = end.next()
		}
	}
	return prefixes, true
}
