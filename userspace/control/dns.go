package control

import "net/netip"

// DNS is how queries are taken and answered at one moment. Counts are since the
// agent started.
type DNS struct {
	Schema int `json:"schema,omitzero"` // zero in a Status, which has its own

	// On says that the host's queries are taken. If not, Cause says why.
	On    bool   `json:"on"`
	Cause string `json:"cause,omitempty"`

	// The first of the UDP ports that queries are brought to, by family; 0
	// where that family is left alone.
	PortIPv4 uint16 `json:"port_ipv4"`
	PortIPv6 uint16 `json:"port_ipv6"`

	Patterns int          `json:"patterns"` // of names, in rules of the policy in force
	Pool     Pool         `json:"pool"`
	Private  []PrivateDNS `json:"private"`

	Pending     int `json:"pending"`     // queries that wait for an answer
	Connections int `json:"connections"` // TCP connections of clients
	Lookups     int `json:"lookups"`     // under way, for original addresses of acquired names

	// Queries counts what became of queries, each of which has one outcome.
	// Events counts what else was worth it, by name.
	Queries map[string]uint64 `json:"queries"`
	Events  map[string]uint64 `json:"events"`

	// Latency says how long answers took, by the way they came from.
	Latency map[string]Latency `json:"latency"`

	Servers []DNSServer `json:"servers"` // that were asked lately
}

// Pool is where synthetic addresses come from. A name holds one of each prefix,
// so what is counted here are names.
type Pool struct {
	Prefixes []netip.Prefix `json:"prefixes"` // IPv4 first; empty: names cannot be acquired
	Capacity int            `json:"capacity"`
	Used     int            `json:"used"` // names that hold addresses
	Held     int            `json:"held"` // names whose address a flow uses
	Full     uint64         `json:"full"` // queries for which there was no address

	// LogError says why no new name can be put on disk, and so none can be
	// acquired; empty when all is well.
	LogError string `json:"log_error,omitempty"`
	LogSize  int64  `json:"log_bytes"`

	Syncs    uint64  `json:"syncs"` // writes to the disk
	SyncTime float64 `json:"sync_seconds"`
	SyncMax  float64 `json:"sync_max_seconds"`
}

// PrivateDNSRule says which server behind a channel answers for names. It has the
// fields of policy.PrivateDNSRule, which converts to it.
type PrivateDNSRule struct {
	Suffix      string     `json:"suffix"`
	Server      netip.Addr `json:"server"`
	SingleLabel bool       `json:"single_label"` // for names of one label: NAME.suffix is asked
}

// PrivateDNS is a PrivateDNSRule as it works now.
type PrivateDNS struct {
	PrivateDNSRule
	Channel string `json:"channel,omitempty"` // identifier of the channel that leads there
	Active  bool   `json:"active"`            // the channel is up, so the rule is in use
}

// DNSServer is a server that queries were sent to.
type DNSServer struct {
	Server   netip.AddrPort `json:"server"`
	Way      string         `json:"way"`
	Queries  uint64         `json:"queries"`
	Answers  uint64         `json:"answers"`
	Timeouts uint64         `json:"timeouts"`
	Failures uint64         `json:"failures"`        // of the network or of the channel
	Cause    string         `json:"cause,omitempty"` // of the last failure or time-out
	Latency  Latency        `json:"latency"`
}

// Latency is a histogram of durations.
type Latency struct {
	Count   uint64          `json:"count"`
	Sum     float64         `json:"sum_seconds"`
	Buckets []LatencyBucket `json:"buckets"` // by ascending Bound
}

// LatencyBucket counts the durations up to a bound, those of lower buckets
// among them. What is longer than the last bound is only in Latency.Count.
type LatencyBucket struct {
	Bound float64 `json:"bound_seconds"`
	Count uint64  `json:"count"`
}

// Quantile returns the least bound that at least the share q of all durations
// is not above, in seconds. The second result is false if they are longer than
// every bound, or there are none.
func (l Latency) Quantile(q float64) (bound float64, ok bool) {
	for _, b := range l.Buckets {
		if l.Count > 0 && float64(b.Count) >= q*float64(l.Count) {
			return b.Bound, true
		}
	}
	return 0, false
}

// listed returns d as the server answers it: with lists and not null in JSON.
func (d DNS) listed() DNS {
	d.Private, d.Servers = list(d.Private), list(d.Servers)
	d.Pool.Prefixes = list(d.Pool.Prefixes)
	return d
}
