package policy

import (
	"maps"
	"math/rand/v2"
	"testing"
)

// optimalPrefixes returns the least number of prefixes that give each of the
// 2^n places its row by longest match: Draves et al., "Constructing optimal IP
// routing tables", INFOCOM 1999.
func optimalPrefixes(rows []uint32) int {
	var fold func(rows []uint32) (candidates map[uint32]bool, prefixes int)
	fold = func(rows []uint32) (map[uint32]bool, int) {
		if len(rows) == 1 {
			return map[uint32]bool{rows[0]: true}, 1
		}
		left, n := fold(rows[:len(rows)/2])
		right, m := fold(rows[len(rows)/2:])
		both := maps.Clone(left)
		maps.DeleteFunc(both, func(row uint32, _ bool) bool { return !right[row] })
		if len(both) > 0 {
			return both, n + m - 1
		}
		maps.Copy(left, right)
		return left, n + m
	}
	candidates, prefixes := fold(rows)
	if candidates[0] {
		prefixes--
	}
	return prefixes
}

// tableOf returns the prefix table for the rows of the 2^bits places of a line.
func tableOf(t *testing.T, rows []uint32, bits int) []PrefixRow {
	place := func(i int) point { return point{hi: uint64(i) << (64 - bits)} }
	table := &prefixTable{is4: true, most: 1 << 30}
	first := 0
	for i := range rows {
		if rows[i] != rows[first] {
			table.add(place(first), place(i).previous(), rows[first])
			first = i
		}
	}
	table.add(place(first), lastPoint(), rows[first])
	prefixes, err := table.prefixes()
	if err != nil {
		t.Fatal(err)
	}
	return prefixes
}

func TestPrefixCountIsNearTheOptimum(t *testing.T) {
	const bits, places = 12, 1 << 12
	r := rand.New(rand.NewPCG(1, 2))
	paint := func(rows []uint32, n, size int, row func(i int) uint32, at func(i int) int) []uint32 {
		for i := range n {
			from := at(i)
			for j := from; j < min(from+size, len(rows)); j++ {
				rows[j] = row(i)
			}
		}
		return rows
	}
	oneOfFive := func(int) uint32 { return 1 + r.Uint32N(5) }
	anywhere := func(int) int { return r.IntN(places) }
	for _, test := range []struct {
		shape string
		slack float64 // allowed excess over the optimum
		rows  func() []uint32
	}{
		{"scattered", 0.02, func() []uint32 {
			return paint(make([]uint32, places), 300, 1, oneOfFive, anywhere)
		}},
		{"scattered in a catch-all", 0.1, func() []uint32 {
			rows := paint(make([]uint32, places), 1, places, func(int) uint32 { return 9 }, func(int) int { return 0 })
			return paint(rows, 300, 1, oneOfFive, anywhere)
		}},
		{"side by side", 0, func() []uint32 {
			return paint(make([]uint32, places), places, 1, func(i int) uint32 { return uint32(i % 5) }, func(i int) int { return i })
		}},
		{"ranges off borders", 0.4, func() []uint32 {
			rows := make([]uint32, places)
			for size := 600; size > 1; size /= 2 {
				paint(rows, 20, size, oneOfFive, anywhere)
			}
			return rows
		}},
		{"prefixes in prefixes", 0.3, func() []uint32 {
			rows := make([]uint32, places)
			for size := places / 2; size > 0; size /= 2 {
				paint(rows, 20, size, oneOfFive, func(int) int { return r.IntN(places) / size * size })
			}
			return rows
		}},
		{"nested", 0.4, func() []uint32 {
			rows := make([]uint32, places)
			for i := range 250 {
				paint(rows[:places-7*i], 1, places, func(int) uint32 { return uint32(i + 1) }, func(int) int { return 7*i + 3 })
			}
			return rows
		}},
	} {
		t.Run(test.shape, func(t *testing.T) {
			for range 5 {
				rows := test.rows()
				got, least := len(tableOf(t, rows, bits)), optimalPrefixes(rows)
				if got < least || float64(got) > float64(least)*(1+test.slack) {
					t.Errorf("%d prefixes, the optimum is %d", got, least)
				}
			}
		})
	}
}

func TestPointArithmeticAtTheEnds(t *testing.T) {
	if got := lastPoint().previous().next(); got != lastPoint() {
		t.Errorf("last point, back and forth = %v", got)
	}
	if got := (point{hi: 1}).previous(); got != (point{lo: ^uint64(0)}) {
		t.Errorf("point before 2^64 = %v", got)
	}
	for _, test := range []struct {
		first, last point
		want        int
	}{
		{point{}, lastPoint(), 0},
		{point{}, lastPoint().previous(), 1},
		{point{}, point{}, 128},
		{lastPoint(), lastPoint(), 128},
		{point{lo: 1}, lastPoint(), 128},
		{point{lo: 2}, lastPoint(), 127},
		{point{hi: 1}, lastPoint(), 64},
		{point{hi: 2}, lastPoint(), 63},
		{point{hi: 2}, point{2, ^uint64(0)}, 64},
		{point{hi: 1 << 63}, lastPoint(), 1},
	} {
		if got := test.first.prefixBits(test.last); got != test.want {
			t.Errorf("%v.prefixBits(%v) = %d, want %d", test.first, test.last, got, test.want)
		}
	}
}
