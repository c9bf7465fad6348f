// Package flow describes acquired flows: what the kernel remembered of each
// one when its application connected, and what the relay has carried since.
package flow

import (
	"net/netip"
	"time"
)

// Kind says what a record is of. It is numbered as in the datapath.
type Kind uint8

// The kinds of a record. The zero value is what rules decide about.
const (
	KindFlow  Kind = iota
	KindQuery      // a connection to port 53, taken whatever the rules say
)

// Record is what the kernel knew of a flow when its application connected, or
// of the packet path, when its first packet left.
type Record struct {
	OrigDst      netip.AddrPort // the original destination; IPv4 is never IPv4-mapped
	Rule         uint32         // index of the rule in the policy of Generation; of no meaning for KindQuery
	Generation   uint32         // number of the policy that decided; 0 for KindQuery before the first
	PID, UID     uint32         // of the task that called connect
	Mark         uint32         // SO_MARK of the application's socket
	SocketCookie uint64         // of the application's socket
	NetnsCookie  uint64         // of the application's network namespace
	Since        time.Duration  // CLOCK_MONOTONIC at connect
	Kind         Kind
	Protocol     Protocol

	// Source is where a flow of the packet path comes from, as the relay sees
	// it: of a forwarded one after the host's source NAT. It is the zero value
	// for a flow of the socket path. IPv4 is never IPv4-mapped.
	Source netip.AddrPort

	// Direct is where the agent sends a flow of the packet path itself: the original
	// address of a name that goes direct. It is the zero value for a flow that an
	// edge carries.
	Direct netip.AddrPort

	// Forwarded says that no socket of the host sent the flow: it comes from
	// another network namespace or machine, and PID, UID and SocketCookie are 0.
	Forwarded bool
}

// SystemUsers is the end of the ids of users that are services and no people:
// login.defs(5), UID_MIN.
const SystemUsers = 1000

// Query returns what a record of KindQuery says of its sender.
func (r Record) Query() Query {
	return Query{Server: r.OrigDst, PID: r.PID, UID: r.UID, HasAsker: true, Mark: r.Mark}
}

// Query says who sent a DNS query, and to which server.
type Query struct {
	Server   netip.AddrPort // as the application named it; without zone, IPv4 is never IPv4-mapped
	PID, UID uint32         // of the task that connected or sent; 0 if HasAsker is false
	HasAsker bool
	Device   int    // index of the device that the socket was bound to; 0 is none
	Mark     uint32 // SO_MARK of the socket
}
