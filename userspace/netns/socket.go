package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Listen opens a listener inside the namespace. The host part of address is an
// IP literal or empty, since names would be looked up in whatever namespace
// the resolver's goroutine is in. TCP listeners are plain: Go's default of
// Multipath TCP would make their sockets differ from those of other programs.
func (n *Namespace) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	return socket(n, network, address, func() (net.Listener, error) {
		return config.Listen(ctx, network, address)
	})
}

// ListenPacket opens a packet socket inside the namespace. What Listen says of
// addresses holds here too.
func (n *Namespace) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	var config net.ListenConfig
	return socket(n, network, address, func() (net.PacketConn, error) {
		return config.ListenPacket(ctx, network, address)
	})
}

// DialContext connects from inside the namespace. What Listen says of
// addresses holds here too. It fits http.Transport's field of that name.
func (n *Namespace) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var dialer net.Dialer
	return socket(n, network, address, func() (net.Conn, error) {
		return dialer.DialContext(ctx, network, address)
	})
}

// socket runs open, which opens a socket for address, inside n.
func socket[T any](n *Namespace, network, address string, open func() (T, error)) (T, error) {
	var opened T
	if err := checkLiteral(network, address); err != nil {
		return opened, err
	}
	err := n.Do(func() (err error) {
		opened, err = open()
		return err
	})
	return opened, err
}

func checkLiteral(network, address string) error {
	if strings.HasPrefix(network, "unix") {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("parse address %q: %w", address, err)
	}
	if host == "" {
		return nil
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return fmt.Errorf("parse address %q: %w", address, err)
	}
	return nil
}
