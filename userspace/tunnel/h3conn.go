package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/bpfacq/bpfacq/userspace/capsule"
)

const (
	// quicKeepAlive keeps the mappings of NATs, quicSilence is after how long
	// without a packet from the edge a connection counts as dead, and quicIdle
	// after how long without flows it is closed.
	quicKeepAlive = 10 * time.Second
	quicSilence   = 20 * time.Second
	quicIdle      = 2 * time.Minute

	// quicPatience is after how long without a packet from an edge that was
	// asked for a flow its connection counts as dead.
	quicPatience = 6 * time.Second

	// streamPatience is how long an edge may let a flow wait whose streams are
	// all in use, before it goes to another connection.
	streamPatience = time.Second

	// outboxSize is how many datagrams may wait for a connection to take them.
	outboxSize = 512
)

// h3Conn carries flows over one QUIC connection, which has a UDP socket to itself.
type h3Conn struct {
	pool      *h3Pool
	socket    net.PacketConn
	transport *quic.Transport
	quic      *quic.Conn
	client    *http3.ClientConn
	load      atomic.Int32 // flows
	limit     atomic.Int32 // of load, as the edge has let us find out; 0 after GOAWAY
	silent    atomic.Bool  // ended for want of packets
	ended     atomic.Bool
	outbox    chan outgoing
}

// h3Dialer makes h3Conns.
type h3Dialer struct {
	*dialer
	host   string // of the edge's address
	listen func(ctx context.Context, network, address string) (net.PacketConn, error)
	client http3.Transport // gives connections their settings
}

func newH3Dialer(d *dialer, o Options) *h3Dialer {
	host, _, err := net.SplitHostPort(o.Address)
	if err != nil {
		host = o.Address // dialing it will say what is wrong
	}
	listen := o.ListenPacket
	if listen == nil {
		listen = new(net.ListenConfig).ListenPacket
	}
	return &h3Dialer{
		dialer: d,
		host:   host,
		listen: listen,
		client: http3.Transport{
			EnableDatagrams:        true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeaderList,
		},
	}
}

// open connects to place, or where the edge's address leads if that is empty.
func (d *h3Dialer) open(ctx context.Context, place string, p *h3Pool) (*h3Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	edge, err := d.locate(ctx, place)
	if err != nil {
		return nil, err
	}
	local := "[::]:0"
	if edge.IP.To4() != nil {
		local = "0.0.0.0:0"
	}
	socket, err := d.listen(ctx, "udp", local)
	if err != nil {
		return nil, &StageError{StageDial, err}
	}
	c := &h3Conn{
		pool:      p,
		socket:    socket,
		transport: &quic.Transport{Conn: socket},
		outbox:    make(chan outgoing, outboxSize),
	}
	c.limit.Store(math.MaxInt32)
	if err := d.shake(ctx, c, edge); err != nil {
		c.transport.Close()
		socket.Close()
		return nil, err
	}
	return c, nil
}

// shake makes the QUIC connection of c, and waits for the edge's SETTINGS.
func (d *h3Dialer) shake(ctx context.Context, c *h3Conn, edge *net.UDPAddr) (err error) {
	security := d.tls.Clone()
	security.MinVersion = tls.VersionTLS13
	security.NextProtos = []string{http3.NextProtoH3}
	c.quic, err = c.transport.Dial(ctx, edge, security, &quic.Config{
		EnableDatagrams:       true,
		HandshakeIdleTimeout:  d.timeout,
		MaxIdleTimeout:        quicSilence,
		KeepAlivePeriod:       quicKeepAlive,
		MaxIncomingStreams:    -1,
		MaxIncomingUniStreams: 8, // control and QPACK, and some that are to be ignored
	})
	if err != nil {
		return &StageError{quicStage(err), err}
	}
	c.client = d.client.NewClientConn(c.quic)
	select {
	case <-c.client.ReceivedSettings():
		return nil
	case <-c.quic.Context().Done():
		return &StageError{StageDial, context.Cause(c.quic.Context())}
	case <-ctx.Done():
		c.quic.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeMissingSettings), "")
		return &StageError{StageDial, context.Cause(ctx)}
	}
}

// locate returns where the edge is. What dials TCP knows how its name resolves,
// and connecting a UDP socket sends nothing.
func (d *h3Dialer) locate(ctx context.Context, place string) (*net.UDPAddr, error) {
	if place != "" {
		edge, err := net.ResolveUDPAddr("udp", place) // of an address, it asks nobody
		if err != nil {
			return nil, &StageError{StageDial, err}
		}
		return edge, nil
	}
	probe, err := d.dial(ctx, "udp", d.address)
	if err != nil {
		return nil, &StageError{dialStage(err), err}
	}
	defer probe.Close()
	edge, ok := probe.RemoteAddr().(*net.UDPAddr)
	if !ok {
		return nil, &StageError{StageDial, errNoHTTP3}
	}
	return edge, nil
}

// quicStage is where a handshake broke off.
func quicStage(err error) Stage {
	if broken, ok := errors.AsType[*quic.TransportError](err); ok && broken.ErrorCode.IsCryptoError() {
		return StageTLS
	}
	return StageDial
}

// isSilence reports whether a connection ended for want of packets.
func isSilence(cause error) bool {
	_, idle := errors.AsType[*quic.IdleTimeoutError](cause)
	return idle || errors.Is(cause, errSilent)
}

// closing reports whether c is over, or about to be.
func (c *h3Conn) closing() bool { return c.ended.Load() || c.quic.Context().Err() != nil }

// takes reports whether c has room for one more flow.
func (c *h3Conn) takes() bool { return !c.closing() && c.load.Load() < c.limit.Load() }

// end ends the connection, and so all its flows; attend releases it then.
func (c *h3Conn) end(cause error) {
	if !c.ended.Swap(true) {
		c.quic.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
		c.pool.log.Debug("connection closed", slog.Any("cause", cause))
	}
}

// attend sends datagrams until the connection ends, then releases it. A connection
// that has had no flow for a while, it ends.
func (c *h3Conn) attend() {
	idle := time.NewTicker(c.pool.idle)
	defer idle.Stop()
	quiet := false
	for {
		select {
		case o := <-c.outbox:
			o.send()
			quiet = false
		case <-idle.C:
			if quiet && c.load.Load() == 0 {
				c.end(errIdle)
			}
			quiet = c.load.Load() == 0
		case <-c.quic.Context().Done():
			c.ended.Store(true)
			cause := context.Cause(c.quic.Context())
			if c.silent.Load() {
				cause = errSilent // which we ended it for
			}
			c.pool.gone(c, cause)
			c.transport.Close()
			c.socket.Close()
			return
		}
	}
}

// ask sends a CONNECT on a new stream, and waits for the answer. An error that
// matches errUnanswered allows another try elsewhere. Who gets a stream gives the
// place on the connection back when it is over; else ask does.
func (c *h3Conn) ask(ctx context.Context, r request) (*http3.RequestStream, error) {
	stream, status, err := c.exchange(ctx, r)
	if err == nil && status/100 == 2 {
		return stream, nil
	}
	defer c.load.Add(-1)
	if err != nil {
		return nil, &StageError{StageConnect, err}
	}
	defer abandon(stream, http3.ErrCodeRequestCanceled)
	stream.SetReadDeadline(time.Now().Add(snippetTime))
	b := make([]byte, snippetLen)
	n, _ := io.ReadFull(stream, b)
	return nil, &RefusedError{Status: status, Body: string(b[:n])}
}

// exchange sends a request and returns the status of the final answer.
func (c *h3Conn) exchange(ctx context.Context, r request) (*http3.RequestStream, int, error) {
	received := c.quic.ConnectionStats().PacketsReceived
	waiting, cancel := context.WithTimeout(ctx, streamPatience)
	stream, err := c.client.OpenRequestStream(waiting)
	cancel()
	if err != nil {
		if ctx.Err() != nil {
			return nil, 0, context.Cause(ctx)
		}
		c.learnLimit(err)
		return nil, 0, fmt.Errorf("%w: %w", errUnanswered, err)
	}
	stop := context.AfterFunc(ctx, func() { abandon(stream, http3.ErrCodeRequestCanceled) })
	doubt := time.AfterFunc(quicPatience, func() { c.doubt(received) })
	defer doubt.Stop()
	var status int
	if err = stream.SendRequestHeader(h3Request(ctx, r, c.pool.dialer.address)); err == nil {
		status, err = c.answer(stream)
	}
	if stop() && err == nil {
		return stream, status, nil
	}
	abandon(stream, http3.ErrCodeRequestCanceled)
	switch {
	case ctx.Err() != nil:
		return nil, 0, context.Cause(ctx)
	case c.closing(), isRejection(err):
		return nil, 0, fmt.Errorf("%w: %w", errUnanswered, abrupt(err))
	}
	return nil, 0, err
}

// learnLimit notes what it means that no stream could be opened. Neither the
// edge's limit nor a GOAWAY can be asked for.
func (c *h3Conn) learnLimit(err error) {
	if errors.Is(err, context.DeadlineExceeded) {
		c.limit.Store(max(1, c.load.Load()-1))
	} else {
		c.limit.Store(0)
	}
}

// doubt ends a connection from which nothing has come since so many packets: the
// edge acknowledges at once what it gets.
func (c *h3Conn) doubt(received uint64) {
	if c.quic.ConnectionStats().PacketsReceived == received {
		c.silent.Store(true)
		c.end(errSilent)
	}
}

// answer reads answers up to the final one.
func (c *h3Conn) answer(stream *http3.RequestStream) (int, error) {
	for range maxInterim {
		answer, err := stream.ReadResponse()
		if err != nil {
			return 0, err
		}
		if answer.StatusCode >= 200 {
			c.pool.announced(answer.Header.Values("Alt-Svc"), c.quic.RemoteAddr())
			return answer.StatusCode, nil
		}
		clear(answer.Header)
	}
	return 0, malformed("1xx without end")
}

// h3Request is a CONNECT, of RFC 9114 section 4.4 or extended (RFC 9220).
func h3Request(ctx context.Context, r request, edge string) *http.Request {
	header := http.Header{"User-Agent": {""}} // to send none
	if r.authorization != "" {
		header.Set("Proxy-Authorization", r.authorization)
	}
	asked := &http.Request{
		Method: http.MethodConnect,
		Host:   r.authority,
		URL:    &url.URL{Host: r.authority},
		Header: header,
	}
	if r.udp {
		header.Set(capsule.Header, capsule.HeaderTrue)
		asked.Proto = capsule.Protocol
		asked.Host = edge
		asked.URL = &url.URL{Scheme: "https", Host: edge, Opaque: r.path()}
	}
	return asked.WithContext(ctx)
}

// isRejection reports whether the edge has not looked at a request (RFC 9114
// section 8.1).
func isRejection(err error) bool {
	broken, ok := errors.AsType[*http3.Error](err)
	return ok && broken.Remote && (broken.ErrorCode == http3.ErrCodeRequestRejected || broken.ErrorCode == http3.ErrCodeVersionFallback)
}

// abandon breaks both directions of a stream off.
func abandon(stream *http3.RequestStream, code http3.ErrCode) {
	stream.CancelRead(quic.StreamErrorCode(code))
	stream.CancelWrite(quic.StreamErrorCode(code))
}
