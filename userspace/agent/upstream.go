package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/dns"
	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

// dnsPort is where DNS servers are: RFC 1035, section 4.2.
const dnsPort = 53

// errNoChannel says that nothing leads to a DNS server behind a channel.
var errNoChannel = errors.New("no channel leads to the server")

// upstream reaches DNS servers. It implements dns.Upstream and dns.Private.
type upstream struct {
	names *names

	// exempt is a dialer's Control: it keeps a socket from being acquired.
	exempt func(network, address string, c syscall.RawConn) error
}

// way is how one DNS server is reached under the policy in force.
type way struct {
	route     dns.Route
	authority string         // what an edge is asked for
	carrier   *carrier       // of RouteTunnel
	channel   string         // its identifier
	server    netip.AddrPort // of RouteDirect
}

// way decides how a server is reached. One at a synthetic address is the host of
// that name.
func (u *upstream) way(server netip.AddrPort, protocol policy.Protocols) way {
	w := way{authority: server.String(), server: server}
	g := u.names.current.Load()
	switch {
	case g == nil || !g.queried:
		return w
	case g.isPrivate(server.Addr()):
		w.route = dns.RouteTunnel
		if w.channel, w.carrier = g.private(server.Addr()); !w.carrier.up() {
			w.route = dns.RouteBlocked
		}
		return w
	case g.pool != nil && g.pool.Contains(server.Addr()):
		return u.named(g, w, protocol)
	}
	if rule, to, ok := g.covering(protocol, server); ok {
		return w.through(rule, to)
	}
	return w
}

// through sends queries through the channel of a rule, or if that is down as the
// rule's hardening says.
func (w way) through(rule *policy.Rule, to route) way {
	w.carrier, w.channel = to.carrier, to.channel
	switch {
	case !to.carrier.down():
		w.route = dns.RouteTunnel
	case rule.Hardening != policy.HardeningBypass || !w.server.IsValid():
		w.route = dns.RouteBlocked
	}
	return w
}

// named decides how the server of a name is reached, as a flow to it would be.
func (u *upstream) named(g *naming, w way, protocol policy.Protocols) way {
	name, _ := g.pool.Name(w.server.Addr())
	known, _ := u.names.find(name)
	original := known.ipv4
	if w.server.Addr().Is6() {
		original = known.ipv6
	}
	w.authority = net.JoinHostPort(name, fmt.Sprint(w.server.Port()))
	w.server = netip.AddrPortFrom(original, w.server.Port())
	if !original.IsValid() {
		w.server, w.route = netip.AddrPort{}, dns.RouteBlocked
	}
	if name == "" {
		return w
	}
	d := g.policy.MatchName(policy.Flow{Protocol: protocol, Addr: original, Name: name, Port: dnsPort})
	if d.Verdict == policy.VerdictAcquire {
		if !d.ByName {
			w.authority = w.server.String()
		}
		return w.through(&g.policy.Rules[d.Rule], g.epoch.routes[d.Rule])
	}
	return w
}

// Route implements dns.Upstream.
func (u *upstream) Route(q flow.Query, network string) dns.Route {
	protocol := policy.UDP
	if network == "tcp" {
		protocol = policy.TCP
	}
	return u.way(q.Server, protocol).route
}

// DialUDP implements dns.Upstream.
func (u *upstream) DialUDP(ctx context.Context, q flow.Query) (*net.UDPConn, error) {
	conn, err := u.dial(ctx, "udp", q, policy.UDP)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// DialTCP implements dns.Upstream.
func (u *upstream) DialTCP(ctx context.Context, q flow.Query) (*net.TCPConn, error) {
	conn, err := u.dial(ctx, "tcp", q, policy.TCP)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

func (u *upstream) dial(ctx context.Context, network string, q flow.Query, protocol policy.Protocols) (net.Conn, error) {
	server := u.way(q.Server, protocol).server
	if !server.IsValid() {
		return nil, fmt.Errorf("dial %s: no original address is known", q.Server)
	}
	dialer := net.Dialer{Control: func(network, address string, c syscall.RawConn) error {
		return errors.Join(u.exempt(network, address, c), resemble(c, q))
	}}
	dialer.SetMultipathTCP(false)
	return dialer.DialContext(ctx, network, server.String())
}

// resemble gives a socket what the socket of the asker has: the same rules and
// routes are to hold for it. See socket(7).
func resemble(c syscall.RawConn, q flow.Query) error {
	var errs []error
	err := c.Control(func(fd uintptr) {
		if q.Device != 0 {
			errs = append(errs, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, q.Device))
		}
		if q.Mark != 0 {
			errs = append(errs, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(q.Mark)))
		}
	})
	return errors.Join(append(errs, err)...)
}

// Trusted implements dns.Upstream: a server is one that the host is set up with,
// or that the host's own services chose.
func (u *upstream) Trusted(q flow.Query) bool {
	return q.HasAsker && q.UID < flow.SystemUsers || slices.Contains(servers(), q.Server.Addr())
}

// Tunnel implements dns.Upstream. It does not know how the query came: a rule for
// either protocol leads there.
func (u *upstream) Tunnel(ctx context.Context, server netip.AddrPort) (io.ReadWriteCloser, error) {
	for _, protocol := range []policy.Protocols{policy.TCP, policy.UDP} {
		w := u.way(server, protocol)
		if w.carrier == nil || w.route != dns.RouteTunnel {
			continue
		}
		stream, _, err := w.carrier.Connect(ctx, w.authority)
		if err != nil {
			return nil, err
		}
		return abortable{stream}, nil
	}
	return nil, errNoChannel
}

// abortable is a stream whose Close also ends calls that wait.
type abortable struct{ tunnel.Stream }

// Close implements io.Closer.
func (s abortable) Close() error { return errors.Join(s.Reset(), s.Stream.Close()) }

// Server implements dns.Private.
func (u *upstream) Server(name string) (server netip.AddrPort, ask string, ok bool) {
	g := u.names.current.Load()
	if g == nil || !g.queried || len(g.policy.PrivateDNS) == 0 {
		return netip.AddrPort{}, "", false
	}
	addr, ask, ok := g.policy.PrivateServer(name)
	if !ok {
		return netip.AddrPort{}, "", false
	}
	_, c := g.private(addr)
	return netip.AddrPortFrom(addr, dnsPort), ask, c.up()
}

// Holds implements dns.Private.
func (u *upstream) Holds(addr netip.Addr) (private, up bool) {
	g := u.names.current.Load()
	if g == nil || !g.queried || !g.isPrivate(addr) {
		return false, false
	}
	_, c := g.private(addr)
	return true, c.up()
}
