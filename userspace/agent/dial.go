package agent

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/relay"
	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

// Errors of carrying a flow.
var (
	errUnknownGeneration = errors.New("flow of a policy that is not known any more")
	errNoCarrier         = errors.New("another relay carries the flows")
	errNoName            = errors.New("synthetic address stands for no name")
)

const (
	edgeDialTimeout = 10 * time.Second
	edgeKeepAlive   = 30 * time.Second
)

// Connect implements relay.Dialer: it opens a stream to the flow's original
// destination, or the name that it stands for, through the channel of the rule that
// acquired it.
func (a *Agent) Connect(ctx context.Context, rec flow.Record) (relay.Stream, flow.Route, error) {
	if rec.Direct.IsValid() {
		return a.connectDirect(ctx, rec)
	}
	to, r, authority, err := a.toward(rec)
	if err != nil {
		return nil, r, err
	}
	stream, edge, err := to.carrier.Connect(ctx, authority)
	r = answered(r, edge, err)
	if err != nil {
		return nil, r, err
	}
	return stream, r, nil
}

// toward finds what carries a flow, and what an edge is to be asked for.
func (a *Agent) toward(rec flow.Record) (to route, r flow.Route, authority string, err error) {
	to, ok := a.epochs.route(rec.Generation, rec.Rule)
	if !ok {
		return to, r, "", errUnknownGeneration
	}
	r.Rule, r.Channel = to.rule, to.channel
	if to.carrier == nil {
		return to, r, "", errNoCarrier
	}
	if !a.epochs.synthetic(rec.Generation, rec.OrigDst.Addr()) {
		return to, r, rec.OrigDst.String(), nil
	}
	if r.Name, _ = a.names.Reverse(rec.OrigDst.Addr()); r.Name == "" {
		return to, r, "", errNoName
	}
	return to, r, net.JoinHostPort(r.Name, strconv.Itoa(int(rec.OrigDst.Port()))), nil
}

// answered adds to a route what an edge said, which is the zero value if none was
// reached.
func answered(r flow.Route, edge policy.Edge, err error) flow.Route {
	if edge.Host != "" {
		r.Edge = edgeAddress(edge)
	}
	if refused, ok := errors.AsType[*tunnel.RefusedError](err); ok {
		r.Status = refused.Status
	}
	if err == nil {
		r.Status = http.StatusOK
	}
	return r
}

// edgeAddress is the "host:port" of an edge, as the profile names it.
func edgeAddress(e policy.Edge) string {
	return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port)))
}

// edgeDialer makes connections that no program of the datapath acquires. It is
// the only way in which the agent reaches the network.
type edgeDialer struct {
	dialer    net.Dialer
	addresses map[string]string // edge name to where it is, instead of asking DNS
}

func (a *Agent) edgeDialer(edges *config.Edges) *edgeDialer {
	dns := net.Dialer{Control: a.datapath.Exempt}
	return &edgeDialer{
		dialer: net.Dialer{
			Timeout:   edgeDialTimeout,
			KeepAlive: edgeKeepAlive,
			Control:   a.datapath.Exempt,
			Resolver:  &net.Resolver{PreferGo: true, Dial: dns.DialContext},
		},
		addresses: edges.Addresses,
	}
}

// DialContext connects to an edge by its name in the profile.
func (d *edgeDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if place, ok := d.addresses[host]; ok {
		address = net.JoinHostPort(place, port)
		if withPort, err := netip.ParseAddrPort(place); err == nil {
			address = withPort.String()
		}
	}
	return d.dialer.DialContext(ctx, network, address)
}

// ListenPacket makes a socket that no program of the datapath acquires from.
func (d *edgeDialer) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	config := net.ListenConfig{Control: d.dialer.Control}
	return config.ListenPacket(ctx, network, address)
}

// literal returns where an edge is, if nobody need be asked for that.
func literal(edges *config.Edges, edge policy.Edge) (netip.AddrPort, bool) {
	place := cmp.Or(edges.Addresses[edge.Host], edge.Host)
	if withPort, err := netip.ParseAddrPort(place); err == nil {
		return withPort, true
	}
	addr, err := netip.ParseAddr(place)
	return netip.AddrPortFrom(addr.Unmap(), edge.Port), err == nil
}

// lookUp asks DNS for the addresses of an edge.
func (d *edgeDialer) lookUp(ctx context.Context, edge policy.Edge) ([]netip.AddrPort, error) {
	addrs, err := d.dialer.Resolver.LookupNetIP(ctx, "ip", edge.Host)
	if err != nil {
		return nil, err
	}
	found := make([]netip.AddrPort, len(addrs))
	for i, addr := range addrs {
		found[i] = netip.AddrPortFrom(addr.Unmap(), edge.Port)
	}
	return found, nil
}
