package dns

import (
	"context"
	"io"
	"net"
	"net/netip"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// Names decides which names are acquired, and keeps their synthetic addresses.
// Names are in lower case, without the final dot; bytes that are no visible
// ASCII, and dots and backslashes within a label, are written \DDD (RFC 1035,
// section 5.1).
type Names interface {
	// Judge says what the policy in force wants of a name. original is the
	// first address that upstream gave, or zero if it was not asked.
	Judge(name string, original netip.Addr) Judgement

	// Protected reports whether a name is never acquired, as that of an edge:
	// the server that was asked is asked directly.
	Protected(name string) bool

	// Assign returns the synthetic addresses of an acquired name, the same
	// as before if it has some, and notes an original address. They are on
	// disk and in the kernel when it returns, and stay for TTL at least.
	Assign(ctx context.Context, name string, original Original) (Address, error)

	// Answered says that an address that Judge told was given out again, and
	// must stay for TTL at least. It does not wait for a disk.
	Answered(name string)

	// Reverse returns the name that has a synthetic address. pooled says
	// that the address is of a pool, with or without a name.
	Reverse(addr netip.Addr) (name string, pooled bool)
}

// Judgement is what the policy wants of a name.
type Judgement struct {
	// Acquired: queries for addresses get synthetic ones.
	Acquired bool

	// Bypassed: the name would be acquired, but the channel is down and the
	// rule's hardening lets queries pass. Acquired is false then.
	Bypassed bool

	// Undecided: whether the name is acquired depends on its original
	// address, which Judge was not told. Acquired then says what holds if
	// there is none.
	Undecided bool

	// IfUnresolved: a name that upstream has no address of is acquired, too.
	IfUnresolved bool

	// IPv6: the name gets a synthetic IPv6 address, too.
	IPv6 bool

	Rule    string  // identifier of the Tunnel rule that acquires the name
	Channel string  // identifier of that rule's channel
	Address Address // what the name has already; zero if nothing
}

// Address is the synthetic addresses of a name. IPv6 is zero unless the policy
// gives names both.
type Address struct{ IPv4, IPv6 netip.Addr }

// Original is what upstream said about a name's address in one family.
type Original struct {
	// Known: upstream has answered. If not, what was known stays.
	Known bool

	// Untrusted: upstream's answer was left out, since it holds for nobody but
	// who asked. Another query may bring one that holds.
	Untrusted bool

	IPv6 bool       // it was asked for AAAA, and for A if not
	Addr netip.Addr // the first address of its answer; zero if it had none
}

// Route is the way in which a server is asked.
type Route uint8

// The ways. The zero value is the direct one.
const (
	RouteDirect  Route = iota // from this host, as the application would have
	RouteTunnel               // by TCP through the channel of the rule that covers the server
	RouteBlocked              // not at all: that channel is down, and hardening blocks
)

// Upstream reaches servers. The connections are those of sockets that are never
// acquired.
type Upstream interface {
	// Route says how q.Server is asked; network is udp or tcp.
	Route(q flow.Query, network string) Route

	// DialUDP and DialTCP connect to q.Server, bound to the device and
	// with the mark of q.
	DialUDP(ctx context.Context, q flow.Query) (*net.UDPConn, error)
	DialTCP(ctx context.Context, q flow.Query) (*net.TCPConn, error)

	// Trusted reports whether the answer of q.Server may hold for the whole
	// host, and not only for who asked it.
	Trusted(q flow.Query) bool

	// Tunnel opens a stream to a server through the channel of the rule that
	// covers it or, for a private server, that which leads there. Close ends
	// a Read and a Write that wait, and may be called at any time.
	Tunnel(ctx context.Context, server netip.AddrPort) (io.ReadWriteCloser, error)
}

// Private knows the servers of private suffixes.
type Private interface {
	// Server returns the server to ask for a name, and the name to ask it
	// for, which differs if a suffix for single labels was added. ok is
	// false if no suffix matches, or the channel to its server is down.
	Server(name string) (server netip.AddrPort, ask string, ok bool)

	// Holds reports whether addr is that of a private server, and whether
	// its channel is up.
	Holds(addr netip.Addr) (private, up bool)
}

// Observer is told of each query for addresses that was answered. It does not
// wait, and is called concurrently.
type Observer interface {
	Observe(Sighting)
}

// Sighting is a name that somebody asked for.
type Sighting struct {
	Name      string
	Type      uint16 // of the query, such as 1 for A
	By        flow.Query
	Judgement Judgement
	Address   Address    // what was answered for an acquired name; zero if not
	Original  netip.Addr // the first address of upstream's answer; zero if it is not known
	Rcode     int        // of the answer: RFC 6895, section 2.3
}
