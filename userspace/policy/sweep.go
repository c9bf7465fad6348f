package policy

import "iter"

// sweep collects where claims begin and end on a line, and then walks the line
// once.
type sweep struct {
	begins, ends []mark // where a claim holds first, and where it holds last
}

type mark struct {
	at    point
	claim uint32
}

func (m mark) place() point { return m.at }

// newSweep returns a sweep with room for n ranges.
func newSweep(n int) *sweep {
	return &sweep{begins: make([]mark, 0, n), ends: make([]mark, 0, n)}
}

// add says that claim holds from first to last. The ranges of one claim may
// overlap.
func (s *sweep) add(first, last point, claim uint32) {
	s.begins = append(s.begins, mark{first, claim})
	if last != lastPoint() { // nothing is after the end of the line
		s.ends = append(s.ends, mark{last, claim})
	}
}

// runs walks the whole line from its start and yields where each run of points
// with one cover begins. A run ends where the next begins. Covers are named by
// tree, which must be fresh.
func (s *sweep) runs(tree *coverTree) iter.Seq2[point, coverID] {
	sortByPlace(s.begins)
	sortByPlace(s.ends)
	return func(yield func(point, coverID) bool) {
		begins, ends := s.begins, s.ends
		depth := make([]uint32, tree.leaves) // by claim, how many of its ranges hold
		var at point
		for {
			for ; len(begins) > 0 && begins[0].at == at; begins = begins[1:] {
				claim := begins[0].claim
				if depth[claim]++; depth[claim] == 1 {
					tree.set(claim, true)
				}
			}
			for ; len(ends) > 0 && ends[0].at.next() == at; ends = ends[1:] {
				claim := ends[0].claim
				if depth[claim]--; depth[claim] == 0 {
					tree.set(claim, false)
				}
			}
			if !yield(at, tree.current()) {
				return
			}
			switch {
			case len(begins) == 0 && len(ends) == 0:
				return
			case len(begins) == 0, len(ends) > 0 && ends[0].at.compare(begins[0].at) < 0:
				at = ends[0].at.next()
			default:
				at = begins[0].at
			}
		}
	}
}
