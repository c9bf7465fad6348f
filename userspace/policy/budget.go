package policy

import (
	"fmt"
	"math"
)

// Budget limits what a compiled policy may cost. A zero field stands for its
// default. The defaults leave room for 1,000 rules over 8,000 overlapping
// destinations, even if every rule has ports of its own.
type Budget struct {
	IPv4Prefixes int // prefixes of the IPv4 table; default 2,000,000
	IPv6Prefixes int // prefixes of the IPv6 table; default 1,000,000
	Classes      int // port classes; default and most 65,535
	Cells        int // cells of the verdict table; default 16,000,000
	Bytes        int // kernel memory of one loaded copy, see [Compiled.Bytes]; default 512 MiB
}

// The default budget, and the most that the tables' number formats can hold.
const (
	defaultIPv4Prefixes = 2_000_000
	defaultIPv6Prefixes = 1_000_000
	defaultCells        = 16_000_000
	defaultBytes        = 512 << 20

	maxClasses = 65_535  // a class is a uint16
	maxCells   = 1 << 30 // a row is a uint32, and sums of two must fit an int anywhere
)

// withDefaults returns b with every field set and within what the tables can
// hold.
func (b Budget) withDefaults() Budget {
	limit := func(n, byDefault, most int) int {
		if n <= 0 {
			n = byDefault
		}
		return min(n, most)
	}
	return Budget{
		IPv4Prefixes: limit(b.IPv4Prefixes, defaultIPv4Prefixes, maxCells),
		IPv6Prefixes: limit(b.IPv6Prefixes, defaultIPv6Prefixes, maxCells),
		Classes:      limit(b.Classes, maxClasses, maxClasses),
		Cells:        limit(b.Cells, defaultCells, maxCells),
		Bytes:        limit(b.Bytes, defaultBytes, math.MaxInt),
	}
}

// BudgetError says that a policy would cost more than its [Budget] allows.
type BudgetError struct {
	Figure string // what is over: "IPv4 prefixes", "IPv6 prefixes", "port classes", "verdict cells", "bytes"
	Needed int    // at least this many
	Limit  int    // of the budget
	Remedy string // what to change in the policy
}

// Error names the figure, the limit and the remedy.
func (e *BudgetError) Error() string {
	return fmt.Sprintf("policy needs %d %s or more, the budget allows %d: %s, or raise the budget",
		e.Needed, e.Figure, e.Limit, e.Remedy)
}

// The costs of a loaded policy in bytes, as the kernel allocates them.
const (
	// A node of a longest-prefix trie is 40 bytes, key and value; kmalloc
	// rounds it to 64, and each prefix can need one more node to branch at.
	bytesPerPrefix = 2 * 64

	// Array maps round their elements to 8 bytes.
	bytesPerCell = 8
	bytesOfPorts = 2 * 65536 * 8
)

// Bytes returns about how much kernel memory one loaded copy of c takes, an
// upper bound that does not count the rules' own records.
func (c *Compiled) Bytes() int {
	return (len(c.IPv4)+len(c.IPv6))*bytesPerPrefix + len(c.Verdicts)*bytesPerCell + bytesOfPorts
}
