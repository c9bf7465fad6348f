package dns

import (
	"net/netip"
	"time"
)

// Status is the state of a Server at one moment. Counts are since Listen.
type Status struct {
	PortIPv4, PortIPv6 uint16 // the first of Ports; 0: that family is not served

	Outcomes    map[Outcome]uint64 // what became of queries, all of them present
	Pending     int                // queries in flight
	Connections int                // TCP connections of clients
	Lookups     int                // for originals of acquired names, in flight

	// Latency is how long answers took, by the way they came from.
	Latency map[Way]Latency

	// Servers are those that were asked lately, the most asked first.
	Servers []ServerStatus
}

// ServerStatus is what is known of a server that was asked.
type ServerStatus struct {
	Server   netip.AddrPort
	Way      Way
	Queries  uint64
	Answers  uint64
	Timeouts uint64
	Failures uint64 // of the network or of the channel
	Cause    string // of the last failure or time-out
	Latency  Latency
}

// Latency is a histogram of durations.
type Latency struct {
	Count   uint64
	Sum     time.Duration
	Buckets []LatencyBucket // by ascending Bound
}

// LatencyBucket counts the durations up to a bound, those of lower buckets
// among them. What is longer than the last bound is only in Latency.Count.
type LatencyBucket struct {
	Bound time.Duration
	Count uint64
}

// Status returns the state as it is now.
func (s *Server) Status() Status {
	v4, v6 := s.Port()
	status := Status{
		PortIPv4: v4, PortIPv6: v6,
		Outcomes: make(map[Outcome]uint64, outcomes), Latency: make(map[Way]Latency, ways),
		Pending: s.quota.pending(), Connections: s.connections.pending(), Lookups: s.lookups.pending(),
		Servers: s.servers.status(),
	}
	for o := range outcomes {
		status.Outcomes[o] = s.counters[o].Load()
	}
	for w := range ways {
		status.Latency[w] = s.latency[w].latency()
	}
	return status
}
