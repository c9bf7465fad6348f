package control

import (
	"net/netip"
	"time"
)

// HostnameList is the answer to a question for host names.
type HostnameList struct {
	Schema    int        `json:"schema"`
	Hostnames []Hostname `json:"hostnames"`
}

// Hostname is a name that an application asked for, or that holds a synthetic
// address. It has the fields of hostname.Hostname, which converts to it.
type Hostname struct {
	Name      string       `json:"name"`              // in lower case, without its final dot
	Synthetic []netip.Addr `json:"synthetic"`         // that stand for the name, IPv4 first
	Original  netip.Addr   `json:"original,omitzero"` // the first of the resolver's answer, if it gave one
	Acquired  bool         `json:"acquired"`
	Rule      string       `json:"rule,omitempty"`    // identifier of the rule that acquires the name
	Channel   string       `json:"channel,omitempty"` // identifier of the rule's channel

	// The process that asked last; PID is 0 if it is not known.
	PID     uint32 `json:"pid"`
	UID     uint32 `json:"uid"`
	Command string `json:"command,omitempty"`

	// Counts are since the agent started.
	Queries uint64    `json:"queries"`
	Flows   uint64    `json:"flows"` // that went to the name
	Rcode   int       `json:"rcode"` // of the last answer: RFC 6895, section 2.3
	First   time.Time `json:"first,omitzero"`
	Last    time.Time `json:"last,omitzero"` // when it was asked for
}
