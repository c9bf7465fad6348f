package policy

import (
	"net/netip"
	"slices"
)

// PrefixRow says which row of the verdict table serves the addresses of a
// prefix that no longer prefix of the table holds.
type PrefixRow struct {
	Prefix netip.Prefix
	Row    uint32 // already multiplied by the width; zero matches nothing
}

// prefixTable turns runs of points, each with its row, into few prefixes for
// which longest-prefix match gives the same rows.
//
// Runs are cut into aligned blocks, and whenever both halves of a larger block
// are there they become one block, with one row: if their rows differ, the
// heavier half gives the row and the other half becomes a prefix inside it.
// So a prefix is never stored with the row that it would inherit. A block's
// weight is the length of the longest run in it with its row, which lets the
// outer of two nested ranges win, as its run goes on beyond the block.
type prefixTable struct {
	is4    bool
	most   int           // prefixes that the budget allows
	needed int           // prefixes, also those beyond the budget, which are not kept
	whole  []prefixBlock // blocks from the start of the line, each shorter than the one before
	nested []prefixBlock
}

type prefixBlock struct {
	at     point
	weight float64
	row    uint32
	bits   uint8 // prefix length
}

func (b prefixBlock) place() point { return b.at }

// reserve makes room for about n prefixes.
func (t *prefixTable) reserve(n int) { t.nested = make([]prefixBlock, 0, min(n, t.most)) }

// add appends the run from first to last, where the run before ended.
func (t *prefixTable) add(first, last point, row uint32) {
	weight := first.weight(last)
	for {
		block := prefixBlock{first, weight, row, uint8(first.prefixBits(last))}
		t.push(block)
		end := first.end(int(block.bits))
		if end == last {
			return
		}
		first = end.next()
	}
}

// push appends a block and joins halves. As the blocks fill the line without a
// gap, two neighbours of one length are always halves of one block.
func (t *prefixTable) push(block prefixBlock) {
	for n := len(t.whole); n > 0 && t.whole[n-1].bits == block.bits; n-- {
		block = t.join(t.whole[n-1], block)
		t.whole = t.whole[:n-1]
	}
	t.whole = append(t.whole, block)
}

// join returns the block of two halves.
func (t *prefixTable) join(a, b prefixBlock) prefixBlock {
	both := prefixBlock{a.at, max(a.weight, b.weight), a.row, a.bits - 1}
	switch {
	case a.row == b.row:
	case a.weight > b.weight, a.weight == b.weight && a.row < b.row:
		t.nest(b)
	default:
		t.nest(a)
		both.row = b.row
	}
	return both
}

func (t *prefixTable) nest(block prefixBlock) {
	if t.needed++; t.needed <= t.most {
		t.nested = append(t.nested, block)
	}
}

// prefixes returns the table, sorted, once the runs have filled the line. It
// returns a *BudgetError if the budget's limit is exceeded.
func (t *prefixTable) prefixes() ([]PrefixRow, error) {
	if line := t.whole[0]; line.row != 0 {
		t.nest(line)
	}
	if t.needed > t.most {
		figure := "IPv6 prefixes"
		if t.is4 {
			figure = "IPv4 prefixes"
		}
		return nil, &BudgetError{figure, t.needed, t.most, "merge neighbouring destinations into ranges"}
	}
	// Of two prefixes that begin at one place, the inner was nested first.
	slices.Reverse(t.nested)
	sortByPlace(t.nested)
	rows := make([]PrefixRow, len(t.nested))
	for i, block := range t.nested {
		rows[i] = PrefixRow{netip.PrefixFrom(block.at.addr(t.is4), int(block.bits)), block.row}
	}
	return rows, nil
}
