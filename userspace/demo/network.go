package demo

import (
	"errors"
	"net/netip"

	"github.com/bpfacq/bpfacq/userspace/netns"
)

// The addresses of the demo. The edge's namespace forwards no packets, so that
// only the edge itself reaches the intranet, whose prefix the sample profile
// tunnels.
const (
	picture = "host 10.99.0.1 ----- 10.99.0.2 edge 192.168.11.1 ----- 192.168.11.200 intranet"

	hostAddr       = "10.99.0.1"
	edgeOutside    = "10.99.0.2"
	edgeInside     = "192.168.11.1"
	edgeTunnels    = "10.99.0.2:443"
	publicResolver = "10.99.0.53" // beside the edge
	intranetAddr   = "192.168.11.200"
	intranetPrefix = "192.168.11.0/24"

	// syntheticPrefix starts the addresses that the sample profile has for names.
	syntheticPrefix = "6.6."
)

// network is three network namespaces in a row.
type network struct {
	host, edge, intranet *netns.Namespace
}

// newNetwork makes the namespaces and connects them.
func newNetwork() (n *network, err error) {
	n = new(network)
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	for _, ns := range n.fields() {
		if *ns, err = netns.New(); err != nil {
			return nil, err
		}
	}
	err = netns.Veth(
		netns.End{Namespace: n.host, Name: "uplink", Addrs: onLink(hostAddr)},
		netns.End{Namespace: n.edge, Name: "outside", Addrs: onLink(edgeOutside, publicResolver)},
	)
	if err != nil {
		return nil, err
	}
	err = netns.Veth(
		netns.End{Namespace: n.edge, Name: "inside", Addrs: onLink(edgeInside)},
		netns.End{Namespace: n.intranet, Name: "lan", Addrs: onLink(intranetAddr)},
	)
	if err != nil {
		return nil, err
	}
	return n, nil
}

// onLink are addresses with the length of the prefix of their link.
func onLink(addrs ...string) (prefixes []netip.Prefix) {
	for _, addr := range addrs {
		prefixes = append(prefixes, netip.PrefixFrom(netip.MustParseAddr(addr), 24))
	}
	return prefixes
}

func (n *network) fields() []**netns.Namespace {
	return []**netns.Namespace{&n.host, &n.edge, &n.intranet}
}

// close gives the namespaces up; the kernel then destroys them.
func (n *network) close() error {
	var errs []error
	for _, ns := range n.fields() {
		if *ns != nil {
			errs = append(errs, (*ns).Close())
		}
	}
	return errors.Join(errs...)
}
