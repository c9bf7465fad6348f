package edge

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// silenced is a socket whose packets go nowhere once it is silent.
type silenced struct {
	net.PacketConn
	silent atomic.Bool
}

func (s *silenced) WriteTo(p []byte, to net.Addr) (int, error) {
	if s.silent.Load() {
		return len(p), nil
	}
	return s.PacketConn.WriteTo(p, to)
}

func TestEdgeClosesThoughAClientTakesNothing(t *testing.T) {
	flood := make([][]byte, 512)
	for i := range flood {
		flood[i] = make([]byte, 1000)
	}
	to := serveUDP(t, "udp4", func([]byte) [][]byte { return flood })
	e, addr, config := serve(t, speaking("h3"))

	socket := &silenced{PacketConn: listenPacket(t)}
	transport := &quic.Transport{Conn: socket}
	t.Cleanup(func() { transport.Close() })
	config = config.Clone()
	config.NextProtos = []string{http3.NextProtoH3}
	conn, err := transport.Dial(t.Context(), udpAddr(addr), config, &quic.Config{EnableDatagrams: true})
	if err != nil {
		t.Fatal(err)
	}
	client := (&http3.Transport{EnableDatagrams: true}).NewClientConn(conn)
	stream, err := client.OpenRequestStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendRequestHeader(connectUDPRequest(udpTarget(to))); err != nil {
		t.Fatal(err)
	}
	if answer, err := stream.ReadResponse(); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatal(answer, err)
	}
	if err := stream.SendDatagram([]byte{0, 'x'}); err != nil {
		t.Fatal(err)
	}
	received := func() float64 { return testutil.ToFloat64(e.metrics.datagramsReceived) }
	await(t, func() bool { return received() > 0 })
	socket.silent.Store(true)
	last, since := 0.0, time.Now()
	await(t, func() bool { // nothing moves any more
		if now := received(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond
	})
	began := time.Now()
	e.Close()
	if took := time.Since(began); took > deadAfter/2 {
		t.Errorf("the edge closed after %v", took)
	}
	if n := e.slots.Load(); n != 0 {
		t.Errorf("%d slots are taken", n)
	}
}

// forger is a socket as of a client that forges its address: it hears nothing.
type forger struct {
	net.PacketConn
	once sync.Once
	sent chan struct{}
}

func (f *forger) WriteTo(p []byte, to net.Addr) (int, error) {
	defer f.once.Do(func() { close(f.sent) })
	return f.PacketConn.WriteTo(p, to)
}

func (f *forger) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		if _, _, err := f.PacketConn.ReadFrom(p); err != nil {
			return 0, nil, err
		}
	}
}

func TestForgedAddressesDoNotTakeAllPlaces(t *testing.T) {
	e, addr, config := serve(t, speaking("h3"), func(o *Options) { o.MaxConnections = 4 })
	for range 8 {
		plain := listenPacket(t)
		f := &forger{PacketConn: plain, sent: make(chan struct{})}
		transport := &quic.Transport{Conn: f}
		ctx, cancel := context.WithCancel(t.Context())
		var dialing sync.WaitGroup
		dialing.Go(func() {
			http3Config := config.Clone()
			http3Config.NextProtos = []string{http3.NextProtoH3}
			transport.Dial(ctx, udpAddr(addr), http3Config, &quic.Config{EnableDatagrams: true})
		})
		t.Cleanup(func() {
			cancel()
			dialing.Wait()
			transport.Close()
		})
		<-f.sent
	}
	await(t, func() bool { return testutil.ToFloat64(e.metrics.connections) >= 2 })
	dialHTTP3(t, addr, config)
}

// udpAddr is where an edge speaks HTTP/3 whose listener has an address.
func udpAddr(listener net.Addr) *net.UDPAddr {
	return net.UDPAddrFromAddrPort(listener.(*net.TCPAddr).AddrPort())
}

func listenPacket(t *testing.T) net.PacketConn {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// await waits until something holds.
func await(t *testing.T, holds func() bool) {
	t.Helper()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	limit := time.After(time.Minute)
	for !holds() {
		select {
		case <-look.C:
		case <-limit:
			t.Fatal("waited in vain")
		}
	}
}
