package policy

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestSortByPlaceKeepsTheSequenceOfEquals(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, test := range []struct {
		line  string
		place func() point
	}{
		{"few places", func() point { return point{lo: r.Uint64N(9)} }},
		{"IPv4", func() point { return point{hi: r.Uint64N(1<<32) << 32} }},
		{"IPv6", func() point { return point{r.Uint64(), r.Uint64()} }},
		{"one octet of each half", func() point { return point{r.Uint64N(256) << 56, r.Uint64N(256) << 8} }},
		{"one place", lastPoint},
	} {
		t.Run(test.line, func(t *testing.T) {
			for _, n := range []int{0, 1, fewPlaces - 1, fewPlaces, 5 * fewPlaces} {
				marks := make([]mark, n)
				for i := range marks {
					marks[i] = mark{test.place(), uint32(i)}
				}
				want := slices.Clone(marks)
				slices.SortStableFunc(want, func(a, b mark) int { return a.at.compare(b.at) })
				if sortByPlace(marks); !slices.Equal(marks, want) {
					t.Errorf("%d places are not in stable order", n)
				}
			}
		})
	}
}

func TestEqualCoversHaveOneName(t *testing.T) {
	tree := newCoverTree([]bool{false, false, true, false, true, false})
	cover := func(holding ...uint32) coverID {
		for claim := range uint32(6) {
			tree.set(claim, slices.Contains(holding, claim))
		}
		return tree.current()
	}
	for _, test := range []struct {
		behaviour string
		a, b      []uint32
		equal     bool
	}{
		{"same claims", []uint32{0, 3}, []uint32{0, 3}, true},
		{"one more claim", []uint32{0, 3}, []uint32{0, 1, 3}, false},
		{"other claims", []uint32{0, 3}, []uint32{1, 3}, false},
		{"behind the same total claim", []uint32{0, 2}, []uint32{0, 2, 3, 4, 5}, true},
		{"behind total claims that differ", []uint32{0, 2}, []uint32{0, 4}, false},
		{"nothing", nil, nil, true},
		{"something", nil, []uint32{5}, false},
	} {
		t.Run(test.behaviour, func(t *testing.T) {
			if got := cover(test.a...) == cover(test.b...); got != test.equal {
				t.Errorf("covers %v and %v have one name: %t, want %t", test.a, test.b, got, test.equal)
			}
		})
	}
	var claims []uint32
	tree.claims(cover(5, 1, 4, 0), func(claim uint32) bool {
		claims = append(claims, claim)
		return true
	})
	if want := []uint32{0, 1, 4}; !slices.Equal(claims, want) {
		t.Errorf("claims of the cover = %v, want %v: strongest first, cut after a total one", claims, want)
	}
}
