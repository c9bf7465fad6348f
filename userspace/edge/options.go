package edge

import (
	"cmp"
	"crypto/tls"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// Options shape an [Edge]. A zero limit means its default.
type Options struct {
	// Listen is the TCP address of Edge.Listen, "host:port".
	Listen string

	// HTTP3 has Serve speak HTTP/3 on the UDP port of its listener's number,
	// and announce it. PreferHTTP3 announces it as what clients should use for
	// TCP too; otherwise they use it for UDP alone.
	HTTP3       bool
	PreferHTTP3 bool

	// Certificate is what the edge shows to clients.
	Certificate tls.Certificate

	// Allow lists the destinations, in the grammar of [Allow].
	Allow []string

	// Token, if not empty, is what clients present as
	// "Proxy-Authorization: Bearer …".
	Token string

	// Resolver resolves the names of destinations; nil is
	// net.DefaultResolver.
	Resolver Resolver

	// Protected are destinations that no Allow rule opens; nil is
	// policy.NeverAcquired().
	Protected []policy.Protection

	// AllowLoopback lifts the protection of loopback addresses: for tests.
	AllowLoopback bool

	DialTimeout    time.Duration // of resolution and connection together; default 10 s
	HeaderTimeout  time.Duration // of the TLS handshake and of a request's header; default 10 s
	IdleTimeout    time.Duration // of a connection without flows, never of a flow; default 10 min
	UDPIdleTimeout time.Duration // of a flow of datagrams; default 3 min, and RFC 4787 wants 2 min at least
	DrainTimeout   time.Duration // how long flows may finish when the edge closes; default 10 s

	MaxFlows       int // at a time, dialing or carried; default 16384
	MaxConnections int // of clients at a time, over TCP and over QUIC; more wait, those of QUIC are refused; default 4096

	// Metrics is where the bpfacq_edge_ metrics are registered, or nil.
	Metrics prometheus.Registerer

	// Log may be nil.
	Log *slog.Logger
}

// complete checks the options and fills in the defaults.
func (o Options) complete() (Options, error) {
	switch {
	case len(o.Certificate.Certificate) == 0:
		return o, errNoCertificate
	case len(o.Allow) == 0:
		return o, errNothingAllowed
	case min(o.DialTimeout, o.HeaderTimeout, o.IdleTimeout, o.UDPIdleTimeout, o.DrainTimeout) < 0,
		min(o.MaxFlows, o.MaxConnections) < 0:
		return o, errNegative
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	if o.Protected == nil {
		o.Protected = policy.NeverAcquired()
	}
	if o.AllowLoopback {
		o.Protected = slices.DeleteFunc(slices.Clone(o.Protected), func(p policy.Protection) bool {
			return p.Prefix.Addr().IsLoopback()
		})
	}
	o.DialTimeout = cmp.Or(o.DialTimeout, 10*time.Second)
	o.HeaderTimeout = cmp.Or(o.HeaderTimeout, 10*time.Second)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, 10*time.Minute)
	o.UDPIdleTimeout = cmp.Or(o.UDPIdleTimeout, 3*time.Minute)
	o.DrainTimeout = cmp.Or(o.DrainTimeout, 10*time.Second)
	o.MaxFlows = cmp.Or(o.MaxFlows, 1<<14)
	o.MaxConnections = cmp.Or(o.MaxConnections, 1<<12)
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	return o, nil
}
