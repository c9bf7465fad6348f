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

	hostPrefix     = "10.99.0.1/24"
	edgePrefix     = "10.99.0.2/24"
	edgeInside     = "192.168.11.1"
	edgeTunnels    = "10.99.0.2:443"
	intranetAddr   = "192.168.11.200"
	intranetPrefix = "192.168.11.0/24"
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
		netns.End{Namespace: n.host, Name: "uplink", Addrs: []netip.Prefix{netip.MustParsePrefix(hostPrefix)}},
		netns.End{Namespace: n.edge, Name: "outside", Addrs: []netip.Prefix{netip.MustParsePrefix(edgePrefix)}},
	)
	if err != nil {
		return nil, err
	}
	err = netns.Veth(
		netns.End{Namespace: n.edge, Name: "inside", Addrs: []netip.Prefix{netip.MustParsePrefix(edgeInside + "/24")}},
		netns.End{Namespace: n.intranet, Name: "lan", Addrs: []netip.Prefix{netip.MustParsePrefix(intranetAddr + "/24")}},
	)
	if err != nil {
		return nil, err
	}
	return n, nil
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
