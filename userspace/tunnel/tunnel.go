// Package tunnel is the agent's side of HTTP CONNECT to one edge.
//
// A [Tunnel] turns names and addresses into [Stream]s. Over HTTP/2 the streams
// share a small pool of TLS connections; over HTTP/1.1 each has its own. Which
// of the two an edge speaks is learnt from its first TLS handshake.
//
// The flow's goroutines do the work: a writer encrypts and writes itself, and
// takes what others queued meanwhile along. Each HTTP/2 connection adds one
// goroutine that reads and one, mostly asleep, that writes what the reader may
// not wait for.
package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Stream is one CONNECT through an edge: a flow of bytes each way, each of
// which ends by itself.
//
// One goroutine may read while others write; Reset and Close may come from any.
// Over HTTP/2 it is also an [io.WriterTo], which hands out the receive buffer
// itself: that saves a copy, and a buffer to wait with.
type Stream interface {
	// Read returns io.EOF after the edge ended its direction in order, an
	// error that matches ErrReset when the edge, or the connection to it,
	// broke the stream off, and net.ErrClosed after Reset or Close. Bytes
	// that came before a reset are read first.
	//
	// Write blocks while the edge does not take more. Its bytes are on
	// their way when it returns, not received.
	io.ReadWriter

	// CloseWrite ends the direction to the edge: END_STREAM over HTTP/2,
	// close_notify and a TCP FIN over HTTP/1.1.
	CloseWrite() error

	// Reset breaks the stream off at once: RST_STREAM or a TCP RST. It ends
	// a Read or Write that waits; one that is handing bytes of its
	// connection to the kernel does that first.
	Reset() error

	// Close releases the stream. One that is not ended in both directions
	// is reset. Closing again does nothing.
	Close() error
}

// Options describe the edge, and how it is reached.
type Options struct {
	// Address is the edge's "host:port", as Dial takes it.
	Address string

	// ServerName is the name that the edge's certificate must bear. Empty
	// means the host of Address.
	ServerName string

	// Secure asks for TLS. Without it the tunnel speaks HTTP/1.1 in
	// cleartext; whether that is allowed is for the caller to decide.
	Secure bool

	// TLS gives roots, client certificates and the like; nil means the
	// system's roots. Server name, ALPN and a minimum of TLS 1.2 are set by
	// the tunnel on a copy.
	TLS *tls.Config

	// Dial makes the TCP connections; nil means a plain net.Dialer. A
	// *net.DNSError in its error tells that resolving failed.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// DialTimeout bounds dialing and TLS handshake together. Zero means 10 s.
	DialTimeout time.Duration

	// Connections is how many HTTP/2 connections the load is spread over;
	// zero means GOMAXPROCS. More are opened only while the edge's limit of
	// concurrent streams demands it.
	Connections int

	// KeepAlive is the silence after which an HTTP/2 connection is asked by
	// PING whether it lives. Zero means 30 s. An edge that answers keeps its
	// streams, however quiet they are.
	KeepAlive time.Duration

	// Authorization returns the value of Proxy-Authorization for each
	// CONNECT, empty for none. It may be nil.
	Authorization func() string

	// Log receives the life of connections; nil discards it.
	Log *slog.Logger
}

const (
	defaultDialTimeout = 10 * time.Second
	defaultKeepAlive   = 30 * time.Second
)

// connectAttempts is how often a CONNECT is sent that the edge says it has not
// looked at, or whose connection broke before the answer.
const connectAttempts = 3

// Tunnel reaches one edge. Its methods may be called concurrently.
type Tunnel struct {
	authorization func() string
	pool          *pool

	mu     sync.Mutex
	closed bool
	live   map[*h1Stream]struct{} // of HTTP/1.1, which no pool knows
}

// New returns a tunnel to the edge of o. It dials when the first stream wants
// it. The caller must Close it.
func New(o Options) *Tunnel {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.DialTimeout <= 0 {
		o.DialTimeout = defaultDialTimeout
	}
	if o.KeepAlive <= 0 {
		o.KeepAlive = defaultKeepAlive
	}
	if o.Connections <= 0 {
		o.Connections = runtime.GOMAXPROCS(0)
	}
	if o.Authorization == nil {
		o.Authorization = func() string { return "" }
	}
	return &Tunnel{
		authorization: o.Authorization,
		pool:          newPool(newDialer(o), o),
		live:          make(map[*h1Stream]struct{}),
	}
}

// Connect asks the edge for a stream to authority, a "host:port" whose host is
// a name, an IPv4 address or an IPv6 address in brackets, and returns when the
// edge has agreed. ctx bounds the asking, not the stream.
//
// The error is a [*RefusedError] when the edge answered and declined, and a
// [*StageError] when no answer came.
func (t *Tunnel) Connect(ctx context.Context, authority string) (Stream, error) {
	if err := checkAuthority(authority); err != nil {
		return nil, err
	}
	r := request{authority: authority, authorization: t.authorization()}
	if !httpguts.ValidHeaderFieldValue(r.authorization) {
		// Without the value: it is a secret.
		return nil, &StageError{StageConnect, errAuthorization}
	}
	var shunned *h2Conn
	for attempt := 1; ; attempt++ {
		c, l, err := t.pool.acquire(ctx, shunned)
		if err != nil {
			return nil, err
		}
		if l != nil {
			return t.connectHTTP1(ctx, l, r)
		}
		s, err := c.connect(ctx, r)
		if err == nil {
			return s, nil
		}
		if !errors.Is(err, errUnanswered) || attempt == connectAttempts {
			return nil, err
		}
		shunned = c
	}
}

func (t *Tunnel) connectHTTP1(ctx context.Context, l *link, r request) (Stream, error) {
	s := newH1Stream(l, t)
	if !t.adopt(s) {
		s.Reset()
		return nil, &StageError{StageConnect, net.ErrClosed}
	}
	if err := s.connect(ctx, r); err != nil {
		s.Reset()
		return nil, err
	}
	return s, nil
}

// adopt makes Close end s.
func (t *Tunnel) adopt(s *h1Stream) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.live[s] = struct{}{}
	}
	return !t.closed
}

// forget undoes adopt.
func (t *Tunnel) forget(s *h1Stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.live, s)
}

// Close ends every stream and connection, and waits for the tunnel's
// goroutines. Streams that are still in use report ErrReset or net.ErrClosed.
func (t *Tunnel) Close() error {
	t.mu.Lock()
	t.closed = true
	live := make([]*h1Stream, 0, len(t.live))
	for s := range t.live {
		live = append(live, s)
	}
	t.mu.Unlock()

	for _, s := range live {
		s.Reset()
	}
	t.pool.close()
	return nil
}
