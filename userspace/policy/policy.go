// Package policy holds the desired state of a host: ordered rules that say
// which flows are acquired, and what carries them.
//
// A [Policy] is matched in two ways that must never disagree: [Policy.Match]
// walks the rules in order and is the oracle; [Compile] flattens them into the
// constant-time tables that the kernel reads.
package policy

import (
	"fmt"
	"net/netip"
	"time"
)

// Action is what a rule wants for the flows that it covers.
type Action uint8

// The actions of a forwarding profile. The zero value is no action.
const (
	ActionBypass Action = iota + 1 // leave the flow alone and stop evaluating
	ActionTunnel                   // acquire the flow and carry it to an edge

	// ActionReject refuses the flow at once. No rule has it: it is what a rule
	// with RejectQUIC makes of QUIC.
	ActionReject
)

// String returns the action's name in lower case, as every table and JSON
// answer shows it.
func (a Action) String() string {
	switch a {
	case ActionBypass:
		return "bypass"
	case ActionTunnel:
		return "tunnel"
	case ActionReject:
		return "reject"
	}
	return fmt.Sprintf("action(%d)", uint8(a))
}

// Hardening is what a Tunnel rule wants while its channel cannot carry flows.
type Hardening uint8

// The hardenings of a forwarding profile. The zero value is no hardening.
const (
	HardeningBypass Hardening = iota + 1 // go direct: fail open
	HardeningBlock                       // refuse the flow: fail closed
)

// String returns the hardening's name in lower case.
func (h Hardening) String() string {
	switch h {
	case HardeningBypass:
		return "bypass"
	case HardeningBlock:
		return "block"
	}
	return fmt.Sprintf("hardening(%d)", uint8(h))
}

// Protocols is a set of transport protocols.
type Protocols uint8

// The transport protocols that a rule can name.
const (
	TCP Protocols = 1 << iota
	UDP

	AnyProtocol = TCP | UDP
)

// String returns "tcp", "udp" or "any".
func (p Protocols) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case AnyProtocol:
		return "any"
	}
	return fmt.Sprintf("protocols(%d)", uint8(p))
}

// AddrRange is an inclusive range of addresses of one family. It need not be a
// CIDR. IPv4 addresses are 4-byte ones, never IPv4-mapped.
type AddrRange struct {
	First, Last netip.Addr
}

// Contains reports whether addr lies in the range. An IPv4-mapped addr is the
// IPv4 address.
func (r AddrRange) Contains(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	return addr.BitLen() == r.First.BitLen() && r.First.Compare(addr) <= 0 && addr.Compare(r.Last) <= 0
}

// String returns "first-last", or the address alone when they are equal.
func (r AddrRange) String() string {
	if r.First == r.Last {
		return r.First.String()
	}
	return r.First.String() + "-" + r.Last.String()
}

// PortRange is an inclusive range of ports, in host byte order.
type PortRange struct {
	First, Last uint16
}

// AllPorts returns the range that covers every port.
func AllPorts() PortRange { return PortRange{0, 65535} }

// Contains reports whether port lies in the range.
func (r PortRange) Contains(port uint16) bool { return r.First <= port && port <= r.Last }

// String returns "first-last", or the port alone when they are equal.
func (r PortRange) String() string {
	if r.First == r.Last {
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// TokenContext says which token a channel or an application asks for. bpfacq
// carries it; it does not interpret it.
type TokenContext struct {
	ClientAppID, AudienceScope, ClientRedirectURI string
}

// Rule is one entry of the ordered policy.
type Rule struct {
	ID        string
	Order     float64 // ascending; equal orders keep the profile's sequence
	Channel   string  // Channel.ID
	Action    Action
	Hardening Hardening
	Addrs     []AddrRange
	Names     []NamePattern
	Ports     []PortRange // never empty
	Protocols Protocols

	// RejectQUIC says that UDP 443 of what the rule carries on TCP 443 is
	// refused, so that a browser which tries QUIC (RFC 9114) falls back at once
	// and does not bypass the rule. It has no effect where a rule covers UDP 443
	// that comes no later than this one.
	RejectQUIC bool

	// AcquireIfUnresolved says that a name of this rule is acquired also
	// when no resolver knows it.
	AcquireIfUnresolved bool

	// Token is the application's own token context, or nil.
	Token *TokenContext
}

// Edge is one remote peer of a channel.
type Edge struct {
	Host   string // name or textual address
	Port   uint16
	Secure bool // TLS; false is cleartext
}

// Channel is a set of edges with their own credentials.
type Channel struct {
	ID, Name           string
	Primary, Secondary []Edge
	DiagnosticURI      string // probed through the channel; may be empty
	Token              *TokenContext
}

// PrivateDNSRule says which server answers for a name suffix, see
// [Policy.PrivateServer].
type PrivateDNSRule struct {
	Suffix      string // in canonical form, see CanonicalName
	Server      netip.Addr
	SingleLabel bool // names of a single label get the suffix
}

// Settings are the parts of a profile that shape the agent and not one rule.
// A zero duration means that the profile does not say.
type Settings struct {
	PolicyPollInterval   time.Duration
	GraceTime            time.Duration // how long a new flow waits for a channel that connects
	ProbeInterval        time.Duration // how often a channel is probed
	SyntheticPool        netip.Prefix  // hostAcquisitionInternalSubNet; may be invalid (unset)
	FlushCacheOnChange   bool
	CacheTokens          bool
	TokenRefreshInterval time.Duration
}

// Policy is a whole desired state.
type Policy struct {
	ID, Tenant string
	Revision   string // the source's own version string, compared only for equality
	Channels   []Channel
	Rules      []Rule // in evaluation order
	PrivateDNS []PrivateDNSRule
	Settings   Settings

	// Protected destinations win over every rule. They include at least
	// those of NeverAcquired; the agent adds the edges.
	Protected []Protection

	// Pools are the prefixes that synthetic addresses come from, at most one
	// of each family, see [CheckPool]. Their addresses stand for names and are
	// nothing else: a pool wins over every rule and protection. Without a pool
	// no name is acquired. The agent sets them.
	Pools []netip.Prefix

	// AlsoMatchOriginal says that rules whose addresses hold the original
	// address of a name count among the rules of the name.
	AlsoMatchOriginal bool
}

// Protection is a destination that no rule can acquire.
type Protection struct {
	Prefix netip.Prefix // IPv4 prefixes are 4-byte ones
	Ports  PortRange
	Reason string // for people: "loopback", "metadata service", "edge", …
}
