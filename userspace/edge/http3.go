package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/bpfacq/bpfacq/userspace/capsule"
)

const (
	// keepAlive is how often a quiet HTTP/3 connection is asked whether it is
	// there, in time for the mappings of most NATs; deadAfter is when it is not.
	keepAlive = 25 * time.Second
	deadAfter = 2 * time.Minute

	lastWords = time.Second // that clients have to leave a closing edge

	http3Protocol = "HTTP/3.0" // of a request that is no extended CONNECT
)

var errBusy = errors.New("too many connections")

// quicListener accepts tunnels over HTTP/3.
type quicListener struct {
	edge        *Edge
	packets     net.PacketConn
	transport   *quic.Transport
	listener    *quic.Listener
	server      *http3.Server
	serving     context.Context
	stop        context.CancelFunc
	served      sync.WaitGroup
	connections atomic.Int64
	open        sync.WaitGroup // of connections
}

// listenHTTP3 opens the UDP port of a TCP listener's address, and announces it.
// Without Options.HTTP3 it returns nil, which is a listener that has nothing to
// drain or close.
func (e *Edge) listenHTTP3(ctx context.Context, tunnels net.Addr) (*quicListener, error) {
	if !e.options.HTTP3 {
		return nil, nil
	}
	var config net.ListenConfig
	packets, err := config.ListenPacket(ctx, "udp", tunnels.String())
	if err != nil {
		return nil, fmt.Errorf("listen for HTTP/3: %w", err)
	}
	l := &quicListener{edge: e, packets: packets}
	l.serving, l.stop = context.WithCancel(context.Background())
	l.transport = &quic.Transport{Conn: packets, ConnContext: l.admit, VerifySourceAddress: l.suspects}
	l.server = &http3.Server{
		Handler:         http.HandlerFunc(e.serveHTTP3),
		EnableDatagrams: true,
		MaxHeaderBytes:  maxHeaderBytes,
		IdleTimeout:     e.options.IdleTimeout,
		Logger:          e.log,
	}
	l.listener, err = l.transport.Listen(http3.ConfigureTLSConfig(&tls.Config{
		Certificates: []tls.Certificate{e.options.Certificate},
		MinVersion:   tls.VersionTLS13,
	}), &quic.Config{
		EnableDatagrams:      true,
		HandshakeIdleTimeout: e.options.HeaderTimeout,
		MaxIdleTimeout:       deadAfter,
		KeepAlivePeriod:      keepAlive,
		MaxIncomingStreams:   int64(e.options.MaxFlows),
	})
	if err != nil {
		l.stop()
		l.transport.Close()
		packets.Close()
		return nil, fmt.Errorf("listen for HTTP/3: %w", err)
	}
	e.altSvc = e.alternatives(tunnels)
	l.served.Go(func() { l.server.ServeListener(l.listener) })
	return l, nil
}

// suspects reports whether clients are to prove their address (RFC 9000 section
// 8.1.2) before they count as connections. That takes them a round trip, and is
// asked when many are there: else a flood from forged addresses would take all places.
func (l *quicListener) suspects(net.Addr) bool {
	return l.connections.Load() >= int64(l.edge.options.MaxConnections)/2
}

// admit refuses connections over the limit, and counts the others.
func (l *quicListener) admit(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
	if l.connections.Add(1) > int64(l.edge.options.MaxConnections) {
		l.connections.Add(-1)
		return nil, errBusy
	}
	l.edge.metrics.connections.Inc()
	l.open.Add(1)
	context.AfterFunc(ctx, func() {
		l.connections.Add(-1)
		l.edge.metrics.connections.Dec()
		l.open.Done()
	})
	return ctx, nil
}

// drain accepts no more, and tells the clients so by GOAWAY.
func (l *quicListener) drain() {
	if l == nil {
		return
	}
	l.listener.Close()
	l.served.Go(func() { l.server.Shutdown(l.serving) })
}

// close ends all connections and waits for what served them. Clients have a
// moment to go by themselves: until they have acknowledged what flows ended
// with, closing would lose it.
func (l *quicListener) close() {
	if l == nil {
		return
	}
	gone := make(chan struct{})
	go func() {
		l.open.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-time.After(lastWords):
	}
	l.stop()
	l.server.Close()
	l.served.Wait()
	l.transport.Close()
	l.packets.Close()
	<-gone
}

// alternatives is the Alt-Svc field (RFC 7838 section 3) that announces HTTP/3:
// what is named first is preferred.
func (e *Edge) alternatives(tunnels net.Addr) string {
	_, port, err := net.SplitHostPort(tunnels.String())
	if err != nil {
		return ""
	}
	h2, h3 := `h2=":`+port+`"`, `h3=":`+port+`"`
	if e.options.PreferHTTP3 {
		return h3 + ", " + h2
	}
	return h2 + ", " + h3
}

// serveHTTP3 answers one HTTP/3 request.
func (e *Edge) serveHTTP3(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodConnect:
		plainAnswer(r.Method, r.URL.Path).write(w)
	case r.Proto == http3Protocol:
		e.serveConnect(w, r, r.Host, func() caller { return begin3(w) })
	case r.Proto == capsule.Protocol:
		e.serveConnectUDP3(w, r)
	default:
		unknownProtocol().write(w)
	}
}

// caller3 is a stream of HTTP/3.
type caller3 struct{ *http3.Stream }

// CloseWrite implements caller.
func (c caller3) CloseWrite() error { return c.Close() }

// reset implements caller.
func (c caller3) reset() { resetStream(c.Stream) }

// resetStream ends both ways of a stream as RFC 9114 section 4.4 says of a
// connection that breaks.
func resetStream(stream *http3.Stream) {
	stream.CancelWrite(quic.StreamErrorCode(http3.ErrCodeConnectError))
	stream.CancelRead(quic.StreamErrorCode(http3.ErrCodeConnectError))
}

// begin3 makes the stream of a request the client's end of a flow.
func begin3(w http.ResponseWriter) caller {
	if stream := accept3(w); stream != nil {
		return caller3{stream}
	}
	return nil
}

// serveConnectUDP3 carries a flow of datagrams.
func (e *Edge) serveConnectUDP3(w http.ResponseWriter, r *http.Request) {
	target, err := capsule.ParsePath(r.RequestURI)
	if err != nil {
		badPath().write(w)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	t := &datagrams3{edge: e, cancel: cancel}
	if !e.enter(t) {
		e.refuse(r.RemoteAddr, udp, target, overLimit()).write(w)
		return
	}
	defer e.leave(t)
	d, refused := e.openDatagrams(ctx, target, r.Header.Get("Proxy-Authorization"))
	if refused != nil {
		e.refuse(r.RemoteAddr, udp, target, refused).write(w)
		return
	}
	defer e.giveSlot()
	defer d.close()
	e.metrics.passed(udp)
	w.Header().Set(capsule.Header, capsule.HeaderTrue)
	if stream := accept3(w); stream != nil {
		t.carry(ctx, stream, d)
	}
}

// accept3 answers that the flow is there, and returns its stream, or nil when
// the client has left.
func accept3(w http.ResponseWriter) *http3.Stream {
	w.WriteHeader(http.StatusOK)
	stream, err := w.(http3.HTTPStreamer).HTTPStream()
	if err != nil {
		return nil
	}
	return stream
}
