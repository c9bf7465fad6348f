// Package hostname remembers which names applications asked for, what became
// of each, and who asked last.
package hostname

import (
	"net/netip"
	"time"
)

// DefaultSize is how many names a table remembers unless told.
const DefaultSize = 4096

// Query is one query for a name, and what became of it.
type Query struct {
	Name string // one of policy.CanonicalName; others are not remembered

	// Synthetic is what stands for the name, IPv4 and IPv6; zero if the name
	// is not acquired, or there is none of the family.
	// An acquired name keeps what earlier queries had.
	Synthetic [2]netip.Addr

	// Original is the first address of the resolver's answer; zero if it
	// gave none or was not asked. What earlier queries found stays then.
	Original netip.Addr

	Acquired bool   // the answer was synthetic, or NODATA on account of that
	Rule     string // identifier of the rule that acquires the name
	Channel  string // identifier of the rule's channel

	HasAsker bool   // whether the next two are known
	PID, UID uint32 // of the task that asked

	Rcode int // RCODE of the answer, RFC 6895, section 2.3
}

// Hostname is a name as tables and JSON show it.
type Hostname struct {
	Name      string       `json:"name"`                // as policy.CanonicalName has it
	Synthetic []netip.Addr `json:"synthetic,omitempty"` // IPv4 first
	Original  netip.Addr   `json:"original,omitzero"`
	Acquired  bool         `json:"acquired"`
	Rule      string       `json:"rule,omitempty"`
	Channel   string       `json:"channel,omitempty"`

	// The task that asked last, as far as it was known; PID 0 if never.
	PID     uint32 `json:"pid"`
	UID     uint32 `json:"uid"`
	Command string `json:"command,omitempty"` // of PID; a Table leaves it empty

	Queries uint64    `json:"queries"`
	Flows   uint64    `json:"flows"` // that ever went to the name
	Rcode   int       `json:"rcode"` // of the last answer
	First   time.Time `json:"first"` // when it was asked for
	Last    time.Time `json:"last"`
}
