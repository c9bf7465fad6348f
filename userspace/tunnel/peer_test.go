package tunnel

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// certificate is that of edge.example, valid also at the start of a synctest
// bubble's time.
var certificate = sync.OnceValues(func() (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"edge.example"},
		NotBefore:    time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
})

// fakeEdge takes a tunnel's connections over net.Pipe.
type fakeEdge struct {
	protocols []string      // for ALPN
	dials     chan net.Conn // the edge's ends
	refuse    error         // what dialing returns, if not nil
	version   uint16        // of TLS, at most; zero is the newest
}

func newFakeEdge(protocols ...string) *fakeEdge {
	return &fakeEdge{protocols: protocols, dials: make(chan net.Conn, 256)}
}

func (e *fakeEdge) options() Options {
	_, roots := certificate()
	return Options{
		Address:     "edge.example:443",
		Secure:      true,
		TLS:         &tls.Config{RootCAs: roots},
		Connections: 1,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			if e.refuse != nil {
				return nil, e.refuse
			}
			ours, theirs := net.Pipe()
			e.dials <- theirs
			return ours, nil
		},
	}
}

// accept shakes hands on the next connection.
func (e *fakeEdge) accept(t testing.TB) *tls.Conn {
	t.Helper()
	cert, _ := certificate()
	conn := tls.Server(<-e.dials, &tls.Config{
		Certificates: []tls.Certificate{cert},
		NextProtos:   e.protocols,
		MinVersion:   tls.VersionTLS10,
		MaxVersion:   e.version,
		// A pipe holds nothing: tickets, which the client does not read
		// before it has sent its Finished, would never leave.
		SessionTicketsDisabled: true,
	})
	if err := conn.Handshake(); err != nil {
		t.Error(err)
	}
	return conn
}

// frame is a received frame.
type frame struct {
	http2.FrameHeader
	payload []byte
	fields  map[string]string // of HEADERS
}

// peer is the edge's end of an HTTP/2 connection. It follows no rule by itself.
type peer struct {
	edge *fakeEdge // of open
	t    testing.TB
	conn net.Conn
	*http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
	pump    sync.WaitGroup
	hearing chan struct{} // its token is taken while the edge does not read

	mu     sync.Mutex
	frames []frame // received and not looked at
	err    error   // that ended the connection
}

// acceptHTTP2 takes the next connection, and its preface and first frames. It
// has sent its SETTINGS, without a limit of streams.
func (e *fakeEdge) acceptHTTP2(t testing.TB, settings ...http2.Setting) *peer {
	t.Helper()
	p := e.acceptMute(t)
	p.WriteSettings(settings...)
	p.WriteSettingsAck()
	p.expect(http2.FrameSettings)     // an answer to ours
	p.drop(http2.FrameSettings, true) // theirs
	return p
}

// acceptMute takes the next connection and its first frames, and says nothing.
func (e *fakeEdge) acceptMute(t testing.TB) *peer {
	t.Helper()
	p := &peer{t: t, conn: e.accept(t), hearing: make(chan struct{}, 1)}
	p.hearing <- struct{}{}
	p.Framer = http2.NewFramer(p.conn, p.conn)
	p.encoder = hpack.NewEncoder(&p.block)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(p.conn, preface); err != nil || string(preface) != http2.ClientPreface {
		t.Errorf("preface %q, %v", preface, err)
	}
	p.pump.Go(p.receive)
	return p
}

// receive takes in frames until the connection ends.
func (p *peer) receive() {
	decoder := hpack.NewDecoder(4096, nil)
	for {
		p.hearing <- <-p.hearing
		var f frame
		var err error
		f.FrameHeader, err = http2.ReadFrameHeader(p.conn)
		if err == nil {
			f.payload = make([]byte, f.Length)
			_, err = io.ReadFull(p.conn, f.payload)
		}
		if f.Type == http2.FrameHeaders && err == nil {
			f.fields = map[string]string{}
			var fields []hpack.HeaderField
			fields, err = decoder.DecodeFull(f.payload)
			for _, field := range fields {
				f.fields[field.Name] = field.Value
			}
		}
		p.mu.Lock()
		if err == nil {
			p.frames = append(p.frames, f)
		}
		p.err = err
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// next returns the first received frame of the type, once all goroutines rest,
// and false if there is none. Frames before it are kept.
func (p *peer) next(want http2.FrameType) (frame, bool) {
	p.t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, f := range p.frames {
		if f.Type == want {
			p.frames = append(p.frames[:i:i], p.frames[i+1:]...)
			return f, true
		}
	}
	return frame{}, false
}

// expect returns the first received frame of the type.
func (p *peer) expect(want http2.FrameType) frame {
	p.t.Helper()
	f, ok := p.next(want)
	if !ok {
		p.t.Fatalf("no %v among the %d frames that arrived, first %v", want, len(p.frames), p.frames[:min(3, len(p.frames))])
	}
	return f
}

// expectNone fails if a frame of the type has arrived.
func (p *peer) expectNone(unwanted http2.FrameType) {
	p.t.Helper()
	if f, ok := p.next(unwanted); ok {
		p.t.Fatalf("unwanted %v with %x", f, f.payload)
	}
}

// expectCode returns the error code of the first RST_STREAM or GOAWAY.
func (p *peer) expectCode(want http2.FrameType) http2.ErrCode {
	p.t.Helper()
	f := p.expect(want)
	if want == http2.FrameGoAway {
		return http2.ErrCode(binary.BigEndian.Uint32(f.payload[4:]))
	}
	return http2.ErrCode(binary.BigEndian.Uint32(f.payload))
}

// drop forgets received frames of the type, all or the first.
func (p *peer) drop(unwanted http2.FrameType, all bool) {
	for {
		if _, ok := p.next(unwanted); !ok || !all {
			return
		}
	}
}

// data returns the bytes of the received DATA frames of a stream, and whether
// END_STREAM was among them.
func (p *peer) data(id uint32) (b []byte, ended bool) {
	p.t.Helper()
	for {
		f, ok := p.next(http2.FrameData)
		if !ok {
			return b, ended
		}
		if f.StreamID != id || ended {
			p.t.Fatalf("stray %v", f)
		}
		b = append(b, f.payload...)
		ended = f.Flags.Has(http2.FlagDataEndStream)
	}
}

// answer sends HEADERS with a status and other fields.
func (p *peer) answer(id uint32, endStream bool, status string, fields ...string) {
	p.t.Helper()
	p.block.Reset()
	p.encoder.WriteField(hpack.HeaderField{Name: ":status", Value: status})
	for i := 0; i+1 < len(fields); i += 2 {
		p.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	if err := p.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: p.block.Bytes(), EndHeaders: true, EndStream: endStream,
	}); err != nil {
		p.t.Error(err)
	}
}

// close ends the connection as a dying edge does.
func (p *peer) close() {
	p.conn.(*tls.Conn).NetConn().Close()
	p.pump.Wait()
}

// attempt is a Connect under way.
type attempt struct {
	stream Stream
	err    error
	done   bool
}

// start runs Connect in the background.
func start(ctx context.Context, tun *Tunnel, authority string) *attempt {
	a := new(attempt)
	go func() {
		a.stream, a.err = tun.Connect(ctx, authority)
		a.done = true
	}()
	return a
}

// open returns a tunnel over HTTP/2 with one open stream, number 1.
func open(t *testing.T, settings ...http2.Setting) (*Tunnel, *peer, Stream) {
	t.Helper()
	edge := newFakeEdge("h2")
	tun := New(edge.options())
	a := start(t.Context(), tun, "host.example:443")
	p := edge.acceptHTTP2(t, settings...)
	p.edge = edge
	t.Cleanup(func() { tun.Close(); p.close() })
	p.expect(http2.FrameHeaders)
	p.answer(1, false, "200")
	synctest.Wait()
	if !a.done || a.err != nil {
		t.Fatalf("Connect done %v, error %v", a.done, a.err)
	}
	p.drop(http2.FrameWindowUpdate, true)
	p.drop(http2.FramePing, true)
	return tun, p, a.stream
}
