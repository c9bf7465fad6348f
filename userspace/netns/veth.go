package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// End is one end of a veth pair.
type End struct {
	Namespace *Namespace
	Name      string         // of the link, at most 15 bytes
	Addrs     []netip.Prefix // the link's addresses, each with its on-link prefix
	Routes    []Route        // routes through the link
}

// Route is a way to Prefix by the gateway Via, or on-link if Via is the zero
// Addr.
type Route struct {
	Prefix netip.Prefix
	Via    netip.Addr
}

// Veth connects two namespaces by a veth pair and sets both ends up. The pair
// is created in its places: it never shows in the caller's namespace. It goes
// with either namespace; on an error nothing of it is left.
func Veth(a, b End) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("connect %s and %s: %w", a.Name, b.Name, err)
		}
	}()

	handle, err := a.Namespace.Handle()
	if err != nil {
		return err
	}
	defer handle.Close()

	link := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: a.Name},
		PeerName:      b.Name,
		PeerNamespace: netlink.NsFd(b.Namespace.Fd()),
	}
	if err := handle.LinkAdd(link); err != nil {
		return fmt.Errorf("create veth pair: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, handle.LinkDel(link))
		}
	}()

	// Routes by a gateway need the carrier of both ends.
	for _, end := range []End{a, b} {
		if err := end.Namespace.skipDetection(end.Name); err != nil {
			return err
		}
		if err := end.Namespace.setUp(end.Name); err != nil {
			return err
		}
	}
	for _, end := range []End{a, b} {
		if err := end.configure(); err != nil {
			return err
		}
	}
	return nil
}

func (e End) configure() error {
	if err := e.Namespace.onLink(e.Name, awaitIPv6); err != nil {
		return fmt.Errorf("configure %s: %w", e.Name, err)
	}
	for _, addr := range e.Addrs {
		if err := e.Namespace.AddAddr(e.Name, addr); err != nil {
			return err
		}
	}
	for _, route := range e.Routes {
		if err := e.Namespace.AddRoute(e.Name, route); err != nil {
			return err
		}
	}
	return nil
}

// AddAddr gives the link an address with its on-link prefix, which can be used
// at once: IPv6 addresses skip duplicate address detection (RFC 4862).
func (n *Namespace) AddAddr(link string, addr netip.Prefix) error {
	err := n.onLink(link, func(handle *netlink.Handle, found netlink.Link) error {
		entry := &netlink.Addr{IPNet: ipNet(addr)}
		if addr.Addr().Is6() {
			entry.Flags = unix.IFA_F_NODAD
		}
		if err := handle.AddrAdd(found, entry); err != nil {
			return err
		}
		return awaitLocalRoutes(handle, found)
	})
	if err != nil {
		return fmt.Errorf("add address %s to %s: %w", addr, link, err)
	}
	return nil
}

// AddRoute adds a route through the link to the main table.
func (n *Namespace) AddRoute(link string, route Route) error {
	err := n.onLink(link, func(handle *netlink.Handle, found netlink.Link) error {
		entry := &netlink.Route{
			LinkIndex: found.Attrs().Index,
			Dst:       ipNet(route.Prefix.Masked()),
		}
		if route.Via.IsValid() {
			entry.Gw = route.Via.AsSlice()
		} else {
			entry.Scope = netlink.SCOPE_LINK
		}
		return handle.RouteAdd(entry)
	})
	if err != nil {
		return fmt.Errorf("add route to %s through %s: %w", route.Prefix, link, err)
	}
	return nil
}

func (n *Namespace) setUp(link string) error {
	err := n.onLink(link, (*netlink.Handle).LinkSetUp)
	if err != nil {
		return fmt.Errorf("set link %s up: %w", link, err)
	}
	return nil
}

// onLink finds the link by its name and calls f with it.
func (n *Namespace) onLink(name string, f func(*netlink.Handle, netlink.Link) error) error {
	handle, err := n.Handle()
	if err != nil {
		return err
	}
	defer handle.Close()

	link, err := handle.LinkByName(name)
	if err != nil {
		return err
	}
	return f(handle, link)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{
		IP:   p.Addr().AsSlice(),
		Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
	}
}
