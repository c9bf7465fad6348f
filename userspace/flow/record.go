// Package flow describes acquired flows: what the kernel remembered of each
// one when its application connected, and what the relay has carried since.
package flow

import (
	"net/netip"
	"time"
)

// Record is what the kernel knew of a flow when its application connected.
type Record struct {
	OrigDst      netip.AddrPort // the original destination; IPv4 is never IPv4-mapped
	Rule         uint32         // index of the rule in the policy of Generation
	Generation   uint32         // number of the policy that decided
	PID, UID     uint32         // of the task that called connect
	SocketCookie uint64         // of the application's socket
	NetnsCookie  uint64         // of the application's network namespace
	Since        time.Duration  // CLOCK_MONOTONIC at connect
}
