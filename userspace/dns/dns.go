// Package dns answers the queries that the kernel brought to the agent: names
// that a rule acquires get synthetic addresses, names of private suffixes are
// asked through a channel, and all else is forwarded as it came to the server
// that was asked.
package dns

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// Ports is the number of consecutive UDP ports that a Server listens on. A
// client that asks several servers from one socket is told apart by them.
const Ports = 8

// TTL is how long an answer with a synthetic address may be kept.
const TTL = 30 * time.Second

// Origin knows who sent what the DNS sockets receive.
type Origin interface {
	// Query returns who sent the datagram that was last received from the
	// socket fd, and an error if nobody knows. It neither keeps nor closes
	// fd, and is called concurrently for different sockets.
	Query(fd int) (flow.Query, error)
}

// Options say what a Server needs.
type Options struct {
	Origin   Origin
	Names    Names
	Upstream Upstream
	Private  Private  // nil: no private DNS
	Observer Observer // nil: nobody wants to know

	// Control is called with each UDP socket before it is bound: it stamps
	// the socket. nil does nothing.
	Control func(network, address string, c syscall.RawConn) error

	// FirstPort is the first of Ports consecutive ports to try before others,
	// so that a restarted agent keeps its predecessor's; 0 is no wish.
	FirstPort uint16

	Limits Limits
	Log    *slog.Logger // nil discards
}

// Server answers queries. Its methods may be called concurrently.
type Server struct {
	origin   Origin
	names    Names
	upstream Upstream
	private  Private
	observer Observer
	limits   Limits
	log      *slog.Logger

	sockets []*socket
	port    uint16
	v6      bool // the sockets take IPv6, too

	life  context.Context // ends with the Server
	end   context.CancelFunc
	tasks sync.WaitGroup
	gate  sync.Mutex // held to begin a task, and to let none begin any more
	ended bool

	counters    counters
	latency     [ways]histogram
	quota       quota // of queries
	asking      quota // of Ask
	connections quota
	servers     servers
	lookups     lookups
	pipes       pipes
	scratch     sync.Pool // of *[maxMessage]byte, for datagrams of unknown size
	full, fault complaint
}

func newServer(o Options) *Server {
	s := &Server{
		origin: o.Origin, names: o.Names, upstream: o.Upstream, private: o.Private, observer: o.Observer,
		limits: o.Limits.withDefaults(), log: o.Log,
		scratch: sync.Pool{New: func() any { return new([maxMessage]byte) }},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.life, s.end = context.WithCancel(context.Background())
	s.quota = quota{all: s.limits.Queries, each: s.limits.QueriesPerProcess}
	s.asking = quota{all: mostAsked, each: mostAsked}
	s.connections = quota{all: s.limits.Connections, each: s.limits.ConnectionsPerProcess}
	return s
}

// mostAsked bounds calls of Ask that are under way.
const mostAsked = 64

// Port returns the first UDP port that is listened on by family; 0 where the
// host has no IPv6.
func (s *Server) Port() (v4, v6 uint16) {
	if s.v6 {
		return s.port, s.port
	}
	return s.port, 0
}

// Serve answers queries until ctx is done, then closes the Server. Queries that
// wait for an answer at that moment get none.
func (s *Server) Serve(ctx context.Context) {
	for _, socket := range s.sockets {
		s.spawn(func() { s.receive(socket) })
	}
	select {
	case <-ctx.Done():
	case <-s.life.Done():
	}
	if err := s.Close(); err != nil {
		s.log.Warn("close DNS sockets", slog.Any("error", err))
	}
}

// Close ends the Server: connections to servers, look-ups, and what Serve and
// ServeTCP do. It returns when nothing of it is left but those two. Closing
// again does nothing.
func (s *Server) Close() error {
	s.gate.Lock()
	ended := s.ended
	s.ended = true
	s.gate.Unlock()
	s.end()
	if ended {
		return nil
	}
	var errs []error
	for _, socket := range s.sockets {
		errs = append(errs, socket.conn.SetReadDeadline(time.Unix(1, 0)))
	}
	s.tasks.Wait() // the sockets are read by number, and must be open until then
	return errors.Join(append(errs, s.closeSockets())...)
}

// spawn runs a task that Close waits for, unless that has begun.
func (s *Server) spawn(task func()) bool {
	s.gate.Lock()
	defer s.gate.Unlock()
	if s.ended {
		return false
	}
	s.tasks.Go(task)
	return true
}

// Flush forgets which names were refreshed lately, and lets go of the
// connections to servers behind channels once what they wait for has come. The
// agent calls it when the policy or a channel has changed.
func (s *Server) Flush() {
	s.lookups.forget()
	s.pipes.flush()
}

// unmapped is the address of a socket as policies know it.
func unmapped(at netip.AddrPort) netip.Addr { return at.Addr().Unmap().WithZone("") }
