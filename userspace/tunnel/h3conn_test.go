package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/bpfacq/bpfacq/userspace/edge"
)

// stockEdge3 is a server of quic-go's that echoes what it is sent, and allows each
// connection so many streams.
func stockEdge3(t *testing.T, streams int64) (*http3.Server, Options) {
	t.Helper()
	cert, roots := certificate()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http3.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			stream := w.(http3.HTTPStreamer)
			s, err := stream.HTTPStream()
			if err != nil {
				return
			}
			io.Copy(s, s)
			s.Close()
		}),
		TLSConfig:  http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}}),
		QUICConfig: &quic.Config{MaxIncomingStreams: streams},
	}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(packets) })
	t.Cleanup(func() {
		server.Close()
		packets.Close()
		serving.Wait()
	})
	return server, Options{
		Address:     packets.LocalAddr().String(),
		ServerName:  "edge.example",
		Secure:      true,
		TLS:         &tls.Config{RootCAs: roots},
		Transport:   TransportHTTP3,
		DialTimeout: time.Minute, // on a busy machine
		Connections: 1,
	}
}

// wantEcho checks that a stream carries bytes both ways.
func wantEcho(t *testing.T, s Stream) {
	t.Helper()
	b := make([]byte, 5)
	if _, err := io.WriteString(s, "hello"); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(s, b); err != nil || string(b) != "hello" {
		t.Errorf("got %q, %v", b, err)
	}
}

func openEcho(t *testing.T, tun *Tunnel) Stream {
	t.Helper()
	s, err := tun.Connect(t.Context(), "host.example:1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// await waits until something holds.
func await(t *testing.T, holds func() bool) {
	t.Helper()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	limit := time.After(soon)
	for !holds() {
		select {
		case <-look.C:
		case <-limit:
			t.Fatal("waited in vain")
		}
	}
}

func (p *h3Pool) connections() []*h3Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*h3Conn(nil), p.conns...)
}

func TestEdgesLimitOfStreamsMakesQUICConnections(t *testing.T) {
	_, o := stockEdge3(t, 2)
	tun := newTunnel(t, o)
	for range 6 {
		wantEcho(t, openEcho(t, tun))
	}
	if n := len(tun.h3.connections()); n != 3 {
		t.Errorf("6 streams are on %d connections, want 3", n)
	}
}

func TestConnectionThatIsToGoGetsNoNewStreams(t *testing.T) {
	server, o := stockEdge3(t, 100)
	tun := newTunnel(t, o)
	old := openEcho(t, tun)
	ctx, cancel := context.WithCancel(t.Context())
	var leaving sync.WaitGroup
	leaving.Go(func() { server.Shutdown(ctx) })
	defer leaving.Wait()
	defer cancel()
	c := tun.h3.connections()[0]
	await(t, func() bool { // the edge accepts nothing more
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		s, err := tun.Connect(ctx, "host.example:1")
		if err == nil {
			s.Close()
		}
		return err != nil && !c.takes()
	})
	if c.closing() {
		t.Error("the connection is over")
	}
	wantEcho(t, old)
}

func TestSilenceOfAnEdgeCountsAsBlockedQUIC(t *testing.T) {
	tun := newTunnel(t, wholeEdge(t))
	to := echoUDP(t)
	connectUDP(t, tun, to, "h2") // and learn of HTTP/3
	waitForHTTP3(t, tun, true)
	_, r := connectUDP(t, tun, to, "h3")
	for _, c := range tun.h3.connections() {
		for !c.closing() { // it may say something just now
			c.doubt(c.quic.ConnectionStats().PacketsReceived)
		}
	}
	if err := r.end(t); !errors.Is(err, ErrReset) {
		t.Errorf("Receive returns %v", err)
	}
	await(t, func() bool { return len(tun.h3.connections()) == 0 })
	tun.h3.mu.Lock()
	pause := time.Until(tun.h3.resume)
	tun.h3.mu.Unlock()
	if pause <= 0 || pause > firstRetry {
		t.Errorf("QUIC is tried again in %v", pause)
	}
	connectUDP(t, tun, to, "h2")
}

func TestLostQUICConnectionEndsAllItsFlows(t *testing.T) {
	o := wholeEdge(t)
	o.Transport, o.Connections = TransportHTTP3, 1
	tun := newTunnel(t, o)
	to, toUDP := originTCP(t, echoTCP), echoUDP(t)
	var receipts []*receipt
	var sends []Datagrams
	var reads sync.WaitGroup
	for range 32 {
		s, err := tun.Connect(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		wantEcho(t, s)
		reads.Go(func() {
			defer s.Close()
			if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
				t.Errorf("Read returns %v", err)
			}
			if _, err := s.Write([]byte("x")); !errors.Is(err, ErrReset) {
				t.Errorf("Write returns %v", err)
			}
		})
		d, r := connectUDP(t, tun, toUDP, "h3")
		sends, receipts = append(sends, d), append(receipts, r)
	}
	c := tun.h3.connections()[0]
	c.quic.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeInternalError), "")
	reads.Wait()
	for i, r := range receipts {
		if err := r.end(t); !errors.Is(err, ErrReset) {
			t.Errorf("Receive returns %v", err)
		}
		if err := sends[i].Send([][]byte{{1}}); !errors.Is(err, ErrReset) {
			t.Errorf("Send returns %v", err)
		}
		sends[i].Close()
	}
	if n := c.load.Load(); n != 0 {
		t.Errorf("%d places are taken on a connection that is over", n)
	}
	d, r := connectUDP(t, tun, toUDP, "h3")
	d.Send([][]byte{[]byte("hello")})
	if got := r.next(t); string(got) != "hello" {
		t.Errorf("received %q", got)
	}
}

func TestIdleQUICConnectionIsClosed(t *testing.T) {
	o := wholeEdge(t)
	o.Transport = TransportHTTP3
	tun := newTunnel(t, o)
	tun.h3.idle = 10 * time.Millisecond
	to := originTCP(t, echoTCP)
	for range 2 {
		s, err := tun.Connect(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		wantEcho(t, s)
		<-time.After(50 * time.Millisecond)
		wantEcho(t, s) // with a stream it is not idle
		s.Close()
		await(t, func() bool { return len(tun.h3.connections()) == 0 })
	}
}

func TestEdgeOnIPv6AnnouncesHTTP3(t *testing.T) {
	tun := newTunnel(t, wholeEdgeAt(t, "[::1]:0", func(o *edge.Options) { o.PreferHTTP3 = true }))
	to := originTCP(t, echoTCP)
	s, err := tun.Connect(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	wantEcho(t, s)
	waitForHTTP3(t, tun, false)
	connectUDP(t, tun, echoUDP(t), "h3")
	again, err := tun.Connect(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	wantEcho(t, again)
	if carried(again) != "h3" {
		t.Errorf("TCP goes over %s", carried(again))
	}
}

func TestAddressesOfOneEdgeAreNoNews(t *testing.T) {
	p := newTunnel(t, Options{Address: "edge.example:443", Secure: true}).h3
	first, second := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2)}
	p.announced([]string{`h3=":443"`}, first)
	p.mu.Lock()
	p.blocked(errSilent)
	p.mu.Unlock()
	for _, from := range []net.Addr{first, second, first} {
		if p.announced([]string{`h3=":443"`}, from); p.failures != 1 {
			t.Errorf("announced from %v, QUIC is tried again at once", from)
		}
	}
	if p.announced([]string{`h3=":8443"`}, first); p.failures != 0 {
		t.Error("another port is not tried at once")
	}
}
