package policy

import (
	"math/bits"
	"slices"
)

// verdictTable collects the rows of [Compiled.Verdicts]. Rows with the same
// cells are one row. Row zero matches nothing.
type verdictTable struct {
	*classification
	claims []claim
	most   int               // cells that the budget allows
	cells  []uint32          // all rows, width cells each
	rows   map[uint64]uint32 // by a hash of their content
	known  []uint32          // by coverID: its row + 1, or 0 if it was never asked for
	left   classSet          // scratch: classes of the row that are not decided yet
	row    []uint32          // scratch
}

// newVerdictTable returns a table that holds the row that matches nothing.
func newVerdictTable(c *classification, claims []claim, most int) (*verdictTable, error) {
	t := &verdictTable{
		classification: c,
		claims:         claims,
		most:           most,
		rows:           make(map[uint64]uint32),
		left:           make(classSet, (c.width+bitsPerWord-1)/bitsPerWord),
		row:            make([]uint32, c.width),
	}
	_, err := t.intern()
	return t, err
}

// rowOf returns the row of a cover, multiplied by the width.
func (t *verdictTable) rowOf(tree *coverTree, cover coverID) (uint32, error) {
	for len(t.known) <= int(cover) {
		t.known = append(t.known, 0)
	}
	if row := t.known[cover]; row != 0 {
		return row - 1, nil
	}
	t.decide(tree, cover)
	row, err := t.intern()
	t.known[cover] = row + 1
	return row, err
}

// decide fills the scratch row: each class goes to the strongest claim of the
// cover that covers the class.
func (t *verdictTable) decide(tree *coverTree, cover coverID) {
	clear(t.row)
	for i := range t.left {
		t.left[i] = ^uint64(0)
	}
	undecided := t.width
	tcp := t.ports.Of(TCP, quicPort)
	tree.claims(cover, func(claim uint32) bool {
		c := &t.claims[claim]
		if c.beside != 0 && c.beside != t.row[tcp] {
			return true
		}
		for i, word := range t.sets[claim] {
			won := word & t.left[i]
			t.left[i] &^= word
			undecided -= bits.OnesCount64(won)
			for ; won != 0; won &= won - 1 {
				t.row[i*bitsPerWord+bits.TrailingZeros64(won)] = c.value
			}
		}
		return undecided > 0
	})
}

// intern returns the row with the scratch row's cells, multiplied by the
// width. It returns a *BudgetError if a new row would not fit.
func (t *verdictTable) intern() (uint32, error) {
	hash := hashOf(t.row)
	for ; ; hash++ { // rows with one hash are under the numbers that follow
		row, ok := t.rows[hash]
		if !ok {
			break
		}
		if slices.Equal(t.cells[row:int(row)+t.width], t.row) {
			return row, nil
		}
	}
	if needed := len(t.cells) + t.width; needed > t.most {
		return 0, &BudgetError{"verdict cells", needed, t.most,
			"let fewer rules with different ports overlap, or use fewer different port ranges"}
	}
	if cap(t.cells)-len(t.cells) < t.width {
		t.cells = slices.Grow(t.cells, max(t.width, len(t.cells))) // append alone would copy far more often
	}
	row := uint32(len(t.cells))
	t.cells = append(t.cells, t.row...)
	t.rows[hash] = row
	return row, nil
}

// hashOf is FNV-1a over whole cells.
func hashOf(row []uint32) uint64 {
	hash := uint64(0xcbf29ce484222325)
	for _, cell := range row {
		hash = (hash ^ uint64(cell)) * 0x100000001b3
	}
	return hash
}
