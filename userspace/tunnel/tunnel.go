// Package tunnel is the agent's side of HTTP CONNECT to one edge.
//
// A [Tunnel] turns names and addresses into [Stream]s and [Datagrams]. Over HTTP/2
// they share a small pool of TLS connections; over HTTP/1.1 each stream has its
// own. Which of the two an edge speaks is learnt from its first TLS handshake. An
// edge that announces HTTP/3 (RFC 7838) gets QUIC connections too: for datagrams,
// and for streams if it prefers that.
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
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go/http3"
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

	// ListenPacket makes the UDP sockets that QUIC uses, with the local address
	// "0.0.0.0:0" or "[::]:0"; nil means a plain net.ListenConfig.
	ListenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)

	// Transport is what the tunnel may speak to a secure edge; the zero value
	// means TransportAuto.
	Transport Transport

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
	h3            *h3Pool     // nil if the tunnel does not speak HTTP/3
	carriesUDP    atomic.Bool // the edge has answered as one that knows CONNECT-UDP

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
	if o.Transport == "" {
		o.Transport = TransportAuto
	}
	if o.Authorization == nil {
		o.Authorization = func() string { return "" }
	}
	t := &Tunnel{authorization: o.Authorization, live: make(map[*h1Stream]struct{})}
	d := newDialer(o)
	announced := func([]string, net.Addr) {}
	if o.Secure && (o.Transport == TransportAuto || o.Transport == TransportHTTP3) {
		t.h3 = newH3Pool(d, o)
		announced = t.h3.announced
	}
	t.pool = newPool(d, o, announced)
	return t
}

// Connect asks the edge for a stream to authority, a "host:port" whose host is
// a name, an IPv4 address or an IPv6 address in brackets, and returns when the
// edge has agreed. ctx bounds the asking, not the stream.
//
// The error is a [*RefusedError] when the edge answered and declined, and a
// [*StageError] when no answer came.
func (t *Tunnel) Connect(ctx context.Context, authority string) (Stream, error) {
	r, err := t.request(authority, false)
	if err != nil {
		return nil, err
	}
	if t.h3 != nil && t.h3.wanted(false) {
		s, err := t.connectHTTP3(ctx, r)
		if err == nil || !t.elsewhere(err) {
			return s, err
		}
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

// request is what a CONNECT to authority asks.
func (t *Tunnel) request(authority string, udp bool) (request, error) {
	if err := checkAuthority(authority); err != nil {
		return request{}, err
	}
	r := request{authority: authority, authorization: t.authorization(), udp: udp}
	if !httpguts.ValidHeaderFieldValue(r.authorization) {
		// Without the value: it is a secret.
		return request{}, &StageError{StageConnect, errAuthorization}
	}
	return r, nil
}

// connectHTTP3 is Connect over HTTP/3.
func (t *Tunnel) connectHTTP3(ctx context.Context, r request) (Stream, error) {
	return untilAnswered(
		func(shunned *h3Conn) (*h3Conn, error) { return t.h3.acquire(ctx, h3Patience, shunned) },
		func(c *h3Conn) (Stream, error) {
			s, err := c.connect(ctx, r)
			if err != nil {
				return nil, err
			}
			return s, nil
		})
}

// untilAnswered asks on connections until one answers, the last not again.
func untilAnswered[C, F any](acquire func(shunned *C) (*C, error), ask func(*C) (F, error)) (F, error) {
	var shunned *C
	for n := 1; ; n++ {
		c, err := acquire(shunned)
		if err != nil {
			var none F
			return none, err
		}
		f, err := ask(c)
		if err == nil || !errors.Is(err, errUnanswered) || n == connectAttempts {
			return f, err
		}
		shunned = c
	}
}

// elsewhere reports whether what HTTP/3 did not bring about is to be tried over
// TCP.
func (t *Tunnel) elsewhere(err error) bool {
	if t.h3.always {
		return false
	}
	broken, ok := errors.AsType[*StageError](err)
	return ok && broken.Stage < StageConnect || errors.Is(err, errUnanswered) || errors.Is(err, ErrNoDatagrams)
}

// Protocol is the version of HTTP that TCP flows take now, as ALPN spells it:
// "h3", "h2" or "http/1.1". It is empty before the edge is first reached.
func (t *Tunnel) Protocol() string {
	if t.h3 != nil && t.h3.carriesTCP() {
		return http3.NextProtoH3
	}
	return t.pool.protocol()
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
	if t.h3 != nil {
		t.h3.close()
	}
	return nil
}
