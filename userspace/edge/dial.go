package edge

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// Resolver turns names into addresses. [net.Resolver] is one.
type Resolver interface {
	// LookupNetIP is that of net.Resolver; network is "ip".
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// fallbackDelay is the head start of an address over the next one, RFC 8305
// section 5. maxAddrs bounds how many are tried.
const (
	fallbackDelay = 250 * time.Millisecond
	maxAddrs      = 8
)

// dialer reaches the destinations that it may.
type dialer struct {
	allow     *Allow
	protected []policy.Protection
	resolver  Resolver
	timeout   time.Duration // of resolution and connection together
	connect   func(context.Context, netip.AddrPort) (*net.TCPConn, error)
}

// dial returns a connection to an authority.
func (d *dialer) dial(ctx context.Context, text string) (*net.TCPConn, *refusal) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	addrs, port, refused := d.find(ctx, text, tcp)
	if refused != nil {
		return nil, refused
	}
	conn, err := d.race(ctx, addrs, port)
	if err != nil {
		return nil, dialRefusal(ctx, text, err)
	}
	return conn, nil
}

// dialUDP returns a socket that is connected to an authority: to the first
// address, in the resolver's order, that there is a route to.
func (d *dialer) dialUDP(ctx context.Context, text string) (*net.UDPConn, *refusal) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	addrs, port, refused := d.find(ctx, text, udp)
	if refused != nil {
		return nil, refused
	}
	dialer := net.Dialer{Control: refuseBroadcast}
	var err error
	for _, addr := range addrs {
		var conn net.Conn
		if conn, err = dialer.DialContext(ctx, "udp", netip.AddrPortFrom(addr, port).String()); err == nil {
			return conn.(*net.UDPConn), nil
		}
	}
	return nil, dialRefusal(ctx, text, err)
}

// refuseBroadcast takes back what package net allows all UDP sockets: a flow has
// one destination, not a network.
func refuseBroadcast(_, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 0)
	})
	return cmp.Or(err, failed)
}

// find returns the addresses to dial, at least one and at most maxAddrs. Every
// address is checked after resolution and is itself what is dialed, so a name
// that changes its mind between check and use (DNS rebinding) gains nothing.
func (d *dialer) find(ctx context.Context, text string, p protocol) ([]netip.Addr, uint16, *refusal) {
	a, ok := parseAuthority(text)
	if !ok {
		return nil, 0, badAuthority(text)
	}
	addrs := []netip.Addr{a.addr}
	if a.name != "" {
		var refused *refusal
		if addrs, refused = d.resolve(ctx, a); refused != nil {
			return nil, 0, refused
		}
	}
	addrs, refused := d.permitted(a, addrs, p)
	return addrs[:min(len(addrs), maxAddrs)], a.port, refused
}

func (d *dialer) resolve(ctx context.Context, a authority) ([]netip.Addr, *refusal) {
	addrs, err := d.resolver.LookupNetIP(ctx, "ip", a.name)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return nil, gone()
	case ctx.Err() != nil || isTimeout(err):
		return nil, unresolvedInTime(a.text)
	case err != nil || len(addrs) == 0:
		return nil, unresolved(a.text)
	}
	return addrs, nil
}

// permitted keeps the addresses that a rule covers and nothing protects.
func (d *dialer) permitted(a authority, addrs []netip.Addr, p protocol) ([]netip.Addr, *refusal) {
	named := a.name != "" && d.allow.allowsName(a.name, a.port, p)
	refused := notAllowed(a.text)
	var kept []netip.Addr
	for _, addr := range addrs {
		addr = addr.Unmap()
		if !named && !d.allow.allowsAddr(addr, a.port, p) {
			continue
		}
		if why := d.protection(addr, a.port); why != "" {
			refused = protected(a.text, why)
			continue
		}
		kept = append(kept, addr)
	}
	if len(kept) == 0 {
		return nil, refused
	}
	return kept, nil
}

// protection says why addr must not be reached, or nothing.
func (d *dialer) protection(addr netip.Addr, port uint16) string {
	if addr.Zone() != "" {
		return "zoned address"
	}
	for _, a := range [...]netip.Addr{addr, embedded(addr)} {
		for _, p := range d.protected {
			if p.Prefix.Contains(a) && p.Ports.Contains(port) {
				return p.Reason
			}
		}
	}
	return ""
}

// embedded returns the IPv4 address to which a translator or tunnel near the
// edge would carry addr: NAT64 (RFC 6052), 6to4 (RFC 3056) and the
// IPv4-compatible form (RFC 4291 section 2.5.5.1). Otherwise it is not valid.
func embedded(addr netip.Addr) netip.Addr {
	if !addr.Is6() || addr.IsLoopback() {
		return netip.Addr{}
	}
	b := addr.As16()
	switch {
	case b[0] == 0x20 && b[1] == 0x02:
		return netip.AddrFrom4([4]byte(b[2:6]))
	case [12]byte(b[:12]) == [12]byte{0x00, 0x64, 0xff, 0x9b}, [12]byte(b[:12]) == [12]byte{}:
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.Addr{}
}

// race dials the addresses in order, each with a head start over the rest, and
// returns the first connection. It waits for the losers.
func (d *dialer) race(ctx context.Context, addrs []netip.Addr, port uint16) (*net.TCPConn, error) {
	if len(addrs) == 1 {
		return d.connect(ctx, netip.AddrPortFrom(addrs[0], port))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn *net.TCPConn
		err  error
	}
	results, failed := make(chan result, 2), make(chan struct{})
	go func() {
		conn, err := d.connect(ctx, netip.AddrPortFrom(addrs[0], port))
		if err != nil {
			close(failed)
		}
		results <- result{conn, err}
	}()
	go func() {
		select {
		case <-failed:
		case <-time.After(fallbackDelay):
		case <-ctx.Done():
			results <- result{err: ctx.Err()}
			return
		}
		conn, err := d.race(ctx, addrs[1:], port)
		results <- result{conn, err}
	}()
	first := <-results
	if first.err != nil {
		second := <-results
		return second.conn, second.err
	}
	cancel()
	if second := <-results; second.err == nil {
		second.conn.Close()
	}
	return first.conn, nil
}

// connect dials with keep-alives that notice a dead destination in minutes and
// disturb a quiet one seldom.
func connect(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 2 * time.Minute, Interval: 30 * time.Second, Count: 6,
	}}
	// DialTCP would bind(2), and so use up a port for all destinations at once.
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

func dialRefusal(ctx context.Context, authority string, err error) *refusal {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return gone()
	case ctx.Err() != nil || isTimeout(err):
		return undialedInTime(authority)
	case errors.Is(err, syscall.ECONNREFUSED):
		return undialed(authority, "connection_refused", "connection refused")
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return undialed(authority, "destination_ip_unroutable", "destination unreachable")
	}
	return undialed(authority, "connection_terminated", "no connection")
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}
