package device

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Toward returns the device through which a packet of this host leaves to an
// address, by the routes of the calling thread's network namespace. It is the zero
// value if there is no route.
func Toward(addr netip.Addr) (net.Interface, error) {
	routes, err := netlink.RouteGet(addr.Unmap().AsSlice())
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL):
		return net.Interface{}, nil // no route, and those of type unreachable, prohibit and blackhole
	case err != nil:
		return net.Interface{}, fmt.Errorf("ask for the route to %s: %w", addr, err)
	case len(routes) == 0:
		return net.Interface{}, nil
	}
	found, err := net.InterfaceByIndex(routes[0].LinkIndex)
	if err != nil {
		return net.Interface{}, fmt.Errorf("find the device of the route to %s: %w", addr, err)
	}
	return *found, nil
}
