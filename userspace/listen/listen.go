// Package listen accepts the connections that the kernel rewrote to the
// loopback listeners, and asks for each where its application meant to go. Those of
// the packet path arrive as they were sent, in a network namespace of their own.
package listen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"syscall"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// Origin knows the original destination of accepted sockets.
type Origin interface {
	// Lookup returns the record of the socket behind fd, and an error if
	// there is none. It neither keeps nor closes fd, and is called
	// concurrently.
	Lookup(fd int) (flow.Record, error)
}

// Options say what a Listener needs.
type Options struct {
	Origin Origin

	// Acceptors is the number of goroutines that accept on each socket; 0
	// means one per processor, at most 4. They take turns at accept(2) and
	// overlap in what follows it.
	Acceptors int

	Log *slog.Logger // nil discards
}

// Listener receives acquired flows: on 127.0.0.1 and, where the host has it, on
// ::1, or in a namespace to any destination.
type Listener struct {
	lookup    func(*net.TCPConn) (flow.Record, error)
	acceptors int
	log       *slog.Logger
	sockets   []socket
	v4, v6    netip.AddrPort

	accepted, noRecord, acceptErrors atomic.Uint64
}

// socket is the part of *net.TCPListener that a Listener needs.
type socket interface {
	AcceptTCP() (*net.TCPConn, error)
	Addr() net.Addr
	Close() error
}

// bind makes one listening socket; network is tcp4 or tcp6.
type bind func(ctx context.Context, network, address string) (socket, error)

// Listen binds the loopback listeners, each to a port of the kernel's choice
// and with the longest backlog that the host allows. A host without ::1 gets
// IPv4 only, which is logged and visible in AddrPorts.
func Listen(ctx context.Context, o Options) (*Listener, error) {
	return listen(ctx, o, bindTCP)
}

func listen(ctx context.Context, o Options, bind bind) (*Listener, error) {
	l := newListener(func(conn *net.TCPConn) (flow.Record, error) { return lookUp(conn, o.Origin) }, o.Acceptors, o.Log)
	var err error
	if l.v4, err = l.bind(ctx, bind, "tcp4", "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("listen on IPv4 loopback: %w", err)
	}
	l.v6, err = l.bind(ctx, bind, "tcp6", "[::1]:0")
	switch {
	case noIPv6(err):
		l.log.Warn("acquire IPv4 only: no IPv6 loopback address", slog.Any("error", err))
	case err != nil:
		l.Close()
		return nil, fmt.Errorf("listen on IPv6 loopback: %w", err)
	}
	return l, nil
}

func newListener(lookup func(*net.TCPConn) (flow.Record, error), acceptors int, log *slog.Logger) *Listener {
	if acceptors <= 0 {
		acceptors = min(runtime.GOMAXPROCS(0), 4)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Listener{lookup: lookup, acceptors: acceptors, log: log}
}

func (l *Listener) bind(ctx context.Context, bind bind, network, address string) (netip.AddrPort, error) {
	s, err := bind(ctx, network, address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	l.sockets = append(l.sockets, s)
	return s.Addr().(*net.TCPAddr).AddrPort(), nil
}

// bindTCP binds a plain TCP socket. Multipath TCP would give the accepted
// socket another identity than the one whose record the kernel keeps.
// Keep-alives would cost four system calls per flow and can find nothing: the
// application is on this host, and its end is always announced.
func bindTCP(ctx context.Context, network, address string) (socket, error) {
	config := net.ListenConfig{KeepAlive: -1}
	config.SetMultipathTCP(false)
	listener, err := config.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil
}

// noIPv6 reports whether err is what a host without IPv6 on lo, or without
// IPv6 at all, answers to bind.
func noIPv6(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

// AddrPorts returns the listening addresses, for the kernel's programs to
// rewrite to. v6 is invalid where the host has no IPv6 loopback.
func (l *Listener) AddrPorts() (v4, v6 netip.AddrPort) { return l.v4, l.v6 }

// Counts are what a Listener has seen since it was made.
type Counts struct {
	Accepted     uint64 // connections
	NoRecord     uint64 // of those, reset because the kernel had no record
	AcceptErrors uint64 // of accept(2), such as too many open files
}

// Counts returns the counters.
func (l *Listener) Counts() Counts {
	return Counts{
		Accepted:     l.accepted.Load(),
		NoRecord:     l.noRecord.Load(),
		AcceptErrors: l.acceptErrors.Load(),
	}
}

// Close stops listening and ends Serve. Accepted connections are not touched.
func (l *Listener) Close() error {
	var errs []error
	for _, s := range l.sockets {
		if err := s.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
