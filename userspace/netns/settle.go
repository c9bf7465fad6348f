package netns

import (
	"errors"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kernel completes IPv6 addresses on a work queue, even those that skip
// duplicate address detection. Until then a connection to them is refused and
// the routes of a namespace still change by themselves.

const (
	settlePoll  = time.Millisecond
	settleLimit = 30 * time.Second // of a machine that is busy with something else
)

// skipDetection makes the link's own IPv6 addresses, too, skip duplicate
// address detection. The link is down when it is called. Kernels without IPv6
// have nothing to skip.
func (n *Namespace) skipDetection(link string) error {
	return n.Do(func() error {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+link+"/accept_dad", []byte("0"), 0)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
}

// awaitIPv6 waits until the link has all that the kernel gives to one with a
// carrier: the link-local address, without which neighbours cannot be found.
func awaitIPv6(handle *netlink.Handle, link netlink.Link) error {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return nil
	}
	err := await("link-local address", func() (bool, error) {
		addrs, err := handle.AddrList(link, netlink.FAMILY_V6)
		return slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() }), err
	})
	if err != nil {
		return err
	}
	return awaitLocalRoutes(handle, link)
}

// awaitLocalRoutes waits until the host's own side of each IPv6 address of the
// link is in place.
func awaitLocalRoutes(handle *netlink.Handle, link netlink.Link) error {
	filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, LinkIndex: link.Attrs().Index}
	return await("local routes", func() (bool, error) {
		addrs, err := handle.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			return false, err
		}
		routes, err := handle.RouteListFiltered(netlink.FAMILY_V6, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
		if err != nil {
			return false, err
		}
		for _, addr := range addrs {
			leads := func(r netlink.Route) bool {
				return r.Type == unix.RTN_LOCAL && r.Dst != nil && r.Dst.IP.Equal(addr.IP)
			}
			if !slices.ContainsFunc(routes, leads) {
				return false, nil
			}
		}
		return true, nil
	})
}

// await polls until there is what noun says. A list that changed while it was
// read is read again.
func await(noun string, there func() (bool, error)) error {
	poll := time.NewTicker(settlePoll)
	defer poll.Stop()
	for range settleLimit / settlePoll {
		if ok, err := there(); !errors.Is(err, netlink.ErrDumpInterrupted) && (ok || err != nil) {
			return err
		}
		<-poll.C
	}
	return errors.New("wait for " + noun + ": not there in time")
}
