// Package edge is a small edge for self-hosting, demos and tests: it ends the
// tunnels of clients and carries their flows to the destinations that it
// allows.
//
// It speaks HTTP CONNECT (RFC 9110 section 9.3.6) over TLS, as HTTP/2 (RFC 9113
// section 8.5) or HTTP/1.1, chosen by ALPN. TLS and HTTP/1.1 are net/http's.
// HTTP/2 is served here, on golang.org/x/net/http2's framing: net/http ends a
// stream both ways as soon as one way has ended, and a flow must be able to
// close by halves. If Options.HTTP3 says so it speaks HTTP/3 (RFC 9114) too,
// which is quic-go's, and announces that by Alt-Svc (RFC 7838).
//
// UDP is carried by CONNECT-UDP (RFC 9298): over HTTP/2 in capsules, over HTTP/3
// in datagrams, and in capsules where a datagram is too long (RFC 9297).
//
// Names are resolved here. By default no flow reaches loopback, link-local,
// multicast or metadata addresses, whatever name leads there.
package edge

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrClosed is returned when an Edge that has served or was closed is
	// asked to serve.
	ErrClosed = errors.New("edge is closed")

	errNoCertificate  = errors.New("no certificate is given")
	errNothingAllowed = errors.New("no destination is allowed")
	errNegative       = errors.New("a limit is negative")
	errFlood          = errors.New("client sends and does not read")
)

// DiagnosticPath answers 200 to GET and HEAD, without a token, on any host: a
// target for the probes of a channel.
const DiagnosticPath = "/connectivitytest/ping"

// Edge accepts tunnels and carries their flows.
type Edge struct {
	options Options
	dialer  dialer
	token   [sha256.Size]byte
	metrics *metrics
	buffers *buffers
	rooms   rooms
	slots   atomic.Int64
	log     *slog.Logger
	altSvc  string // set by Serve before it accepts

	begun     atomic.Bool
	closing   chan struct{} // closed by Close
	closeOnce sync.Once
	done      chan struct{} // closed when Serve returns

	mu       sync.Mutex
	draining bool
	live     map[carrier]struct{}
	carriers sync.WaitGroup // of live
}

// carrier is what carries flows: an HTTP/2 connection, an HTTP/1.1 tunnel, or
// a stream of HTTP/3.
type carrier interface {
	drain() // take no new flow; end when none is left
	abort() // end now, with resets
}

// New makes an edge. A rule of Allow that breaks the grammar is a [*RuleError].
func New(o Options) (*Edge, error) {
	o, err := o.complete()
	if err != nil {
		return nil, fmt.Errorf("make edge: %w", err)
	}
	allow, err := ParseAllow(o.Allow)
	if err != nil {
		return nil, err
	}
	metrics, err := newMetrics(o.Metrics)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return &Edge{
		options: o,
		dialer: dialer{
			allow:     allow,
			protected: o.Protected,
			resolver:  o.Resolver,
			timeout:   o.DialTimeout,
			connect:   connect,
		},
		token:   sha256.Sum256([]byte(o.Token)),
		metrics: metrics,
		buffers: new(buffers),
		log:     o.Log,
		closing: make(chan struct{}),
		done:    make(chan struct{}),
		live:    make(map[carrier]struct{}),
	}, nil
}

// Listen opens the listener of Options.Listen, for Serve.
func (e *Edge) Listen(ctx context.Context) (net.Listener, error) {
	var config net.ListenConfig
	// With MPTCP every connection would pay for options that few use.
	config.SetMultipathTCP(false)
	ln, err := config.Listen(ctx, "tcp", e.options.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", e.options.Listen, err)
	}
	return ln, nil
}

// Serve accepts tunnels from ln until ctx is done or the edge is closed, then
// drains: it accepts no more, lets flows finish for DrainTimeout, resets the
// rest and returns nil when all its goroutines have ended. It closes ln. With
// HTTP3 it does the same on the UDP port of ln's address, which it opens. An
// Edge serves once; after that, or after Close, the error is [ErrClosed].
func (e *Edge) Serve(ctx context.Context, ln net.Listener) error {
	limited := limit(ln, e.options.MaxConnections, e.metrics.connections)
	if !e.begun.CompareAndSwap(false, true) {
		limited.Close()
		return ErrClosed
	}
	defer close(e.done)
	h3, err := e.listenHTTP3(ctx, ln.Addr())
	if err != nil {
		limited.Close()
		return err
	}
	server := e.server()
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(limited, "", "") }()
	select {
	case err = <-served:
		err = fmt.Errorf("accept tunnels: %w", err)
	case <-ctx.Done():
	case <-e.closing:
	}
	limited.Close()
	h3.drain()
	drained := e.drain()
	server.Close()
	h3.close()
	<-drained
	limited.wait()
	if err == nil {
		<-served
	}
	return err
}

// Close makes Serve drain, and waits for it.
func (e *Edge) Close() error {
	e.closeOnce.Do(func() { close(e.closing) })
	if e.begun.CompareAndSwap(false, true) {
		close(e.done) // nothing to wait for, and never will be
	}
	<-e.done
	return nil
}

func (e *Edge) server() *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(e.serveHTTP1),
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{e.options.Certificate},
			MinVersion:   tls.VersionTLS12,
			NextProtos:   []string{"h2", "http/1.1"},
			// Small first records help pages to render early. Here they cost
			// a system call each.
			DynamicRecordSizingDisabled: true,
		},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){
			"h2": func(_ *http.Server, wire *tls.Conn, _ http.Handler) {
				e.serveHTTP2(wire, wire.NetConn().(*accepted))
			},
		},
		ReadHeaderTimeout: e.options.HeaderTimeout,
		IdleTimeout:       e.options.IdleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(e.log.Handler(), slog.LevelDebug),
	}
}

// drain waits for what is carried, and after DrainTimeout resets it. What it
// returns is closed when nothing is carried any more: a flow of HTTP/3 whose client
// takes nothing ends with its connection.
func (e *Edge) drain() <-chan struct{} {
	e.mu.Lock()
	e.draining = true
	for c := range e.live {
		c.drain()
	}
	e.mu.Unlock()
	drained := make(chan struct{})
	go func() {
		e.carriers.Wait()
		close(drained)
	}()
	limit := time.NewTimer(e.options.DrainTimeout)
	defer limit.Stop()
	select {
	case <-drained:
		return drained
	case <-limit.C:
	}
	e.mu.Lock()
	for c := range e.live {
		c.abort()
	}
	e.mu.Unlock()
	return drained
}

// enter makes c known to drain. It reports false when the edge drains already.
func (e *Edge) enter(c carrier) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.draining {
		return false
	}
	e.live[c] = struct{}{}
	e.carriers.Add(1)
	return true
}

// leave undoes enter, when nothing of c runs any more.
func (e *Edge) leave(c carrier) {
	e.mu.Lock()
	delete(e.live, c)
	e.mu.Unlock()
	e.carriers.Done()
}

// takeSlot reports whether one more flow may exist.
func (e *Edge) takeSlot() bool {
	if e.slots.Add(1) > int64(e.options.MaxFlows) {
		e.slots.Add(-1)
		return false
	}
	e.metrics.active.Inc()
	return true
}

func (e *Edge) giveSlot() {
	e.slots.Add(-1)
	e.metrics.active.Dec()
}

// open starts a flow of TCP: it checks the token, takes a slot, checks the
// authority and every address of it, and dials. The caller gives the slot of a
// connection back when it has closed it.
func (e *Edge) open(ctx context.Context, authority, authorization string) (*net.TCPConn, *refusal) {
	refused := e.admit(authorization)
	if refused != nil {
		return nil, refused
	}
	begun := time.Now()
	conn, refused := e.dialer.dial(ctx, authority)
	if refused != nil {
		e.giveSlot()
		return nil, refused
	}
	e.metrics.dial.Observe(time.Since(begun).Seconds())
	return conn, nil
}

// openDatagrams is open for a flow of UDP.
func (e *Edge) openDatagrams(ctx context.Context, authority, authorization string) (*datagrams, *refusal) {
	refused := e.admit(authorization)
	if refused != nil {
		return nil, refused
	}
	conn, refused := e.dialer.dialUDP(ctx, authority)
	if refused != nil {
		e.giveSlot()
		return nil, refused
	}
	d, err := e.newDatagrams(conn)
	if err != nil {
		conn.Close()
		e.giveSlot()
		return nil, dialRefusal(ctx, authority, err)
	}
	return d, nil
}

// admit checks the token and takes a slot.
func (e *Edge) admit(authorization string) *refusal {
	if !e.authorized(authorization) {
		return wrongToken()
	}
	if !e.takeSlot() {
		return overLimit()
	}
	return nil
}

// authorized compares digests, so that neither the token's bytes nor its
// length show in the time taken.
func (e *Edge) authorized(authorization string) bool {
	if e.options.Token == "" {
		return true
	}
	scheme, token, _ := strings.Cut(authorization, " ")
	given := sha256.Sum256([]byte(strings.TrimLeft(token, " ")))
	return subtle.ConstantTimeCompare(given[:], e.token[:]) == 1 && strings.EqualFold(scheme, "Bearer")
}
