package policy

import "math/bits"

// PortClasses says which class each port belongs to. Ports of one class are
// covered by the same rules, so one column of the verdict table serves them
// all. TCP and UDP share one numbering, which begins at zero.
type PortClasses struct {
	TCP, UDP [65536]uint16 // class by port, in host byte order
}

// Of returns the class of a port of TCP or UDP.
func (c *PortClasses) Of(protocol Protocols, port uint16) uint16 {
	if protocol == UDP {
		return c.UDP[port]
	}
	return c.TCP[port]
}

// The places of ports on the line that is swept: those of TCP, then those of
// UDP.
const (
	tcpPorts    = 0
	udpPorts    = 65536
	portsEnd    = 2 * 65536
	bitsPerWord = 64
)

// fill puts the places from first up to, but not with, end into class.
func (c *PortClasses) fill(first, end uint64, class uint16) {
	for at := first; at < min(end, udpPorts); at++ {
		c.TCP[at] = class
	}
	for at := max(first, udpPorts); at < min(end, portsEnd); at++ {
		c.UDP[at-udpPorts] = class
	}
}

// classSet is a set of port classes, one bit each.
type classSet []uint64

func (s classSet) add(class uint16) { s[class/bitsPerWord] |= 1 << (class % bitsPerWord) }

// remove takes the classes of other out of s.
func (s classSet) remove(other classSet) {
	for i, word := range other {
		s[i] &^= word
	}
}

func (s classSet) len() int {
	n := 0
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	return n
}

// classification is the outcome of [classify].
type classification struct {
	ports *PortClasses
	width int        // number of classes, at least 1
	sets  []classSet // by claim
}

// total says of each claim whether it covers every port of both protocols.
func (c *classification) total() []bool {
	total := make([]bool, len(c.sets))
	for claim, set := range c.sets {
		total[claim] = set.len() == c.width
	}
	return total
}

// all returns the set of every class.
func (c *classification) all() classSet {
	all := make(classSet, (c.width+bitsPerWord-1)/bitsPerWord)
	for class := range c.width {
		all.add(uint16(class))
	}
	return all
}

// classify sorts all ports into classes, so that each claim covers a class
// wholly or not at all. It returns a *BudgetError if there are more than most.
func classify(claims []claim, most int) (*classification, error) {
	s := newSweep(2 * len(claims))
	for i, c := range claims {
		for _, r := range c.ports {
			if c.protocols&TCP != 0 {
				s.add(point{lo: tcpPorts + uint64(r.First)}, point{lo: tcpPorts + uint64(r.Last)}, uint32(i))
			}
			if c.protocols&UDP != 0 {
				s.add(point{lo: udpPorts + uint64(r.First)}, point{lo: udpPorts + uint64(r.Last)}, uint32(i))
			}
		}
	}
	// No claim is total here: a class is told from another by all its claims.
	tree := newCoverTree(make([]bool, len(claims)))
	c := &classification{ports: new(PortClasses)}
	var covers []coverID // by class
	classes := make(map[coverID]uint16)
	var first uint64
	var class uint16
	for at, cover := range s.runs(tree) {
		c.ports.fill(first, at.lo, class)
		if at.lo >= portsEnd {
			break
		}
		known := false
		if class, known = classes[cover]; !known {
			if len(covers) == most {
				return nil, &BudgetError{"port classes", most + 1, most, "use fewer different port ranges"}
			}
			class = uint16(len(covers))
			classes[cover] = class
			covers = append(covers, cover)
		}
		first = at.lo
	}
	c.ports.fill(first, portsEnd, class)
	c.width = len(covers)
	c.sets = classSets(tree, covers, len(claims))
	return c, nil
}

// classSets turns the covers of each class into the classes of each claim.
func classSets(tree *coverTree, covers []coverID, claims int) []classSet {
	words := (len(covers) + bitsPerWord - 1) / bitsPerWord
	sets := make([]classSet, claims)
	for i := range sets {
		sets[i] = make(classSet, words)
	}
	for class, cover := range covers {
		tree.claims(cover, func(claim uint32) bool {
			sets[claim].add(uint16(class))
			return true
		})
	}
	return sets
}
