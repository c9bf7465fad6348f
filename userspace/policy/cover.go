package policy

// coverID names a cover: an ordered set of claims that hold at some place,
// cut after the first that decides everything there. Equal covers have equal
// names. Zero is the cover of nothing.
type coverID uint32

// coverTree keeps the cover of the place where a sweep stands, under claims
// that begin and end.
//
// It is a binary tree over the claims, strongest leftmost, in which every
// subtree is named by what it holds: a change renames only the path to the
// root, and the name of the root is the name of the cover. So two covers are
// compared in constant time, however many claims they hold, and a place that
// a thousand claims share costs no more than ten steps.
type coverTree struct {
	leaves int                   // a power of two
	tree   []coverID             // heap order: children of i at 2i and 2i+1, leaves last
	nodes  []coverNode           // by coverID; claim i alone is i+1
	ids    map[coverPair]coverID // of nodes with two children
}

type coverPair struct {
	stronger, weaker coverID
}

type coverNode struct {
	coverPair      // both zero in the cover of one claim
	total     bool // its last claim leaves nothing to weaker ones
}

// newCoverTree returns a tree over len(total) claims. total says of each, in
// order of strength, whether it leaves nothing to weaker claims.
func newCoverTree(total []bool) *coverTree {
	leaves := 1
	for leaves < len(total) {
		leaves *= 2
	}
	t := &coverTree{
		leaves: leaves,
		tree:   make([]coverID, 2*leaves),
		nodes:  make([]coverNode, 1+len(total)),
		ids:    make(map[coverPair]coverID),
	}
	for claim, all := range total {
		t.nodes[1+claim].total = all
	}
	return t
}

// set says whether claim holds from here on.
func (t *coverTree) set(claim uint32, holds bool) {
	at := t.leaves + int(claim)
	t.tree[at] = 0
	if holds {
		t.tree[at] = coverID(claim) + 1
	}
	for at > 1 {
		at /= 2
		id := t.join(t.tree[2*at], t.tree[2*at+1])
		if t.tree[at] == id {
			return
		}
		t.tree[at] = id
	}
}

// join names the cover of two subtrees. A subtree that holds nothing leaves no
// trace in the name, and neither do claims that a stronger one makes moot.
func (t *coverTree) join(stronger, weaker coverID) coverID {
	switch {
	case weaker == 0 || t.nodes[stronger].total:
		return stronger
	case stronger == 0:
		return weaker
	}
	pair := coverPair{stronger, weaker}
	id, ok := t.ids[pair]
	if !ok {
		id = coverID(len(t.nodes))
		t.nodes = append(t.nodes, coverNode{pair, t.nodes[weaker].total})
		t.ids[pair] = id
	}
	return id
}

// current names the cover of the place where the sweep stands.
func (t *coverTree) current() coverID { return t.tree[1] }

// claims calls yield with each claim of a cover, strongest first, until yield
// returns false. It reports whether yield never did.
func (t *coverTree) claims(id coverID, yield func(claim uint32) bool) bool {
	node := t.nodes[id]
	switch {
	case id == 0:
		return true
	case node.weaker == 0:
		return yield(uint32(id) - 1)
	}
	return t.claims(node.stronger, yield) && t.claims(node.weaker, yield)
}
