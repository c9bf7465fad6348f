package listen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// Namespace is a network namespace. *netns.Namespace is one.
type Namespace interface {
	// Do runs f on a thread that is in the namespace.
	Do(f func() error) error
}

// Arrivals knows what is to be done with connections by their two ends.
type Arrivals interface {
	// Record returns the record of the connection from source to origDst, and an
	// error if there is none. It is called concurrently.
	Record(source, origDst netip.AddrPort) (flow.Record, error)
}

// TransparentOptions say what a Listener needs that takes connections to any
// destination.
type TransparentOptions struct {
	// Namespace is where they arrive: there every destination is local, and a
	// program of the kernel hands them to the listener.
	Namespace Namespace

	Arrivals  Arrivals
	Acceptors int          // as in Options
	Log       *slog.Logger // nil discards
}

// Keep-alives find out about a peer that is gone without a word, as a machine
// behind the host may be.
const (
	keepAliveIdle     = 5 * time.Minute
	keepAliveInterval = time.Minute
	keepAliveCount    = 5
)

// ListenTransparent binds listeners in a namespace. The local address of what they
// accept is the original destination. Should this process die, every connection
// is reset at once: whoever closes one in order says so before, by SetLinger.
func ListenTransparent(ctx context.Context, o TransparentOptions) (*Listener, error) {
	lookup := func(conn *net.TCPConn) (flow.Record, error) {
		return o.Arrivals.Record(addrPort(conn.RemoteAddr()), addrPort(conn.LocalAddr()))
	}
	l := newListener(lookup, o.Acceptors, o.Log)
	err := o.Namespace.Do(func() (err error) {
		if l.v4, err = l.bind(ctx, bindTransparent, "tcp4", "0.0.0.0:0"); err != nil {
			return fmt.Errorf("listen on any IPv4 address: %w", err)
		}
		if l.v6, err = l.bind(ctx, bindTransparent, "tcp6", "[::]:0"); err != nil && !noIPv6(err) {
			return fmt.Errorf("listen on any IPv6 address: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// addrPort is an end of a connection as records have it.
func addrPort(addr net.Addr) netip.AddrPort {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// bindTransparent binds a socket whose connections inherit what is set here, which
// saves system calls for each of them.
func bindTransparent(ctx context.Context, network, address string) (socket, error) {
	config := net.ListenConfig{
		KeepAlive: -1, // Go's own would replace those that are inherited
		Control: func(network, _ string, c syscall.RawConn) (err error) {
			controlErr := c.Control(func(fd uintptr) { err = makeTransparent(int(fd), network) })
			return errors.Join(controlErr, err)
		},
	}
	config.SetMultipathTCP(false)
	listener, err := config.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil
}

func makeTransparent(fd int, network string) error {
	level, transparent := unix.SOL_IP, unix.IP_TRANSPARENT
	if network == "tcp6" {
		level, transparent = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	return errors.Join(
		unix.SetsockoptInt(fd, level, transparent, 1),
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAliveIdle.Seconds())),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAliveInterval.Seconds())),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveCount),
	)
}

// Control lends the file descriptors of the listeners to f, for programs of the
// kernel. One of a family that the namespace does not have is 0.
func (l *Listener) Control(f func(v4, v6 int) error) error {
	var fds [2]int
	return lend(l.sockets, fds[:0], func(fds []int) error { return f(fds[0], append(fds, 0)[1]) })
}

// lend lends the file descriptors of sockets, after those that are lent.
func lend(sockets []socket, lent []int, f func([]int) error) error {
	if len(sockets) == 0 {
		return f(lent)
	}
	conn, ok := sockets[0].(syscall.Conn)
	if !ok {
		return errors.ErrUnsupported
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(fd uintptr) { err = lend(sockets[1:], append(lent, int(fd)), f) })
	return errors.Join(controlErr, err)
}
