package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/userspace/edge"
)

func TestEdgeThatAnnouncesHTTP3GetsDatagramsThere(t *testing.T) {
	tun := newTunnel(t, wholeEdge(t))
	if got := tun.Protocol(); got != "" {
		t.Errorf("protocol is %q before the edge is reached", got)
	}
	to := originTCP(t, echoTCP)
	s, err := tun.Connect(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	waitForHTTP3(t, tun, true)
	connectUDP(t, tun, echoUDP(t), "h3")
	again, err := tun.Connect(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if carried(s) != "h2" || carried(again) != "h2" || tun.Protocol() != "h2" {
		t.Errorf("TCP goes over %s and %s", carried(s), carried(again))
	}
}

func TestEdgeThatPrefersHTTP3GetsAllThere(t *testing.T) {
	tun := newTunnel(t, wholeEdge(t, func(o *edge.Options) { o.PreferHTTP3 = true }))
	to := originTCP(t, echoTCP)
	s, err := tun.Connect(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	waitForHTTP3(t, tun, false)
	again, err := tun.Connect(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if carried(s) != "h2" || carried(again) != "h3" || tun.Protocol() != "h3" {
		t.Errorf("TCP goes over %s, then %s", carried(s), carried(again))
	}
	io.WriteString(s, "old")
	if _, err := io.ReadFull(s, make([]byte, 3)); err != nil {
		t.Errorf("the stream over HTTP/2: %v", err)
	}
}

// waitForHTTP3 makes the connection that flows make in the background.
func waitForHTTP3(t *testing.T, tun *Tunnel, udp bool) {
	t.Helper()
	if !tun.h3.wanted(udp) {
		t.Fatal("HTTP/3 is not announced")
	}
	c, err := tun.h3.acquire(t.Context(), soon, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.load.Add(-1)
}

// announcing is what Alt-Svc would say of a UDP port where nobody answers.
func announcing(t *testing.T, tun *Tunnel) {
	t.Helper()
	deaf, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deaf.Close() })
	_, port, _ := net.SplitHostPort(deaf.LocalAddr().String())
	tun.h3.announced([]string{`h3=":` + port + `", h2=":443"`}, deaf.LocalAddr())
}

func TestBlockedQUICLeavesFlowsToHTTP2(t *testing.T) {
	o := wholeEdge(t, func(o *edge.Options) { o.HTTP3 = false })
	tun := newTunnel(t, o)
	announcing(t, tun)
	d, r := connectUDP(t, tun, echoUDP(t), "h2")
	d.Send([][]byte{[]byte("hello")})
	if got := r.next(t); string(got) != "hello" {
		t.Errorf("received %q", got)
	}
	s, err := tun.Connect(t.Context(), originTCP(t, echoTCP))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if carried(s) != "h2" {
		t.Errorf("stream goes over %s", carried(s))
	}
}

func TestBlockedQUICIsTriedAgainLater(t *testing.T) {
	o := wholeEdge(t)
	tun := newTunnel(t, o)
	p := tun.h3
	place := p.place
	announcing(t, tun)
	p.dialer.timeout = 100 * time.Millisecond
	if _, err := p.acquire(t.Context(), soon, nil); stageOf(err) != StageDial {
		t.Fatalf("error %v", err)
	}
	began := time.Now()
	_, err := p.acquire(t.Context(), time.Hour, nil)
	p.mu.Lock()
	pause, failures := p.resume.Sub(began), p.failures
	p.mu.Unlock()
	if stageOf(err) != StageDial || failures != 1 || pause <= 0 || pause > firstRetry {
		t.Errorf("error %v, %d failures, retry in %v", err, failures, pause)
	}

	// The pause over, and the way free.
	p.dialer.timeout = time.Minute
	p.mu.Lock()
	p.resume, p.place = time.Time{}, place
	p.mu.Unlock()
	p.announced([]string{`h3=":` + port(o.Address) + `"`}, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	waitForHTTP3(t, tun, true)
	connectUDP(t, tun, echoUDP(t), "h3")
	if p.failures != 0 || p.failure != nil {
		t.Errorf("%d failures, the last %v", p.failures, p.failure)
	}
}

func port(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

func TestBlockedQUICIsNoStateOfAnEdgeWithoutDatagrams(t *testing.T) {
	o := stockEdge(t, true, echo)
	o.DialTimeout = time.Second
	tun := newTunnel(t, o)
	announcing(t, tun)
	if _, err := tun.ConnectUDP(t.Context(), "127.0.0.1:9"); !errors.Is(err, ErrNoDatagrams) {
		t.Errorf("error %v", err)
	}
}

func TestForeignCertificateIsNoEdgeOverHTTP3(t *testing.T) {
	o := wholeEdge(t)
	o.ServerName = "other.example"
	o.Transport = TransportHTTP3
	if _, err := newTunnel(t, o).Connect(t.Context(), "127.0.0.1:9"); stageOf(err) != StageTLS {
		t.Errorf("error %v", err)
	}
}

func TestTransportIsKeptTo(t *testing.T) {
	to := originTCP(t, echoTCP)
	for transport, want := range map[Transport]string{
		TransportHTTP1: "http/1.1",
		TransportHTTP2: "h2",
		TransportHTTP3: "h3",
		"":             "h2",
	} {
		o := wholeEdge(t)
		o.Transport = transport
		tun := newTunnel(t, o)
		s, err := tun.Connect(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		if carried(s) != want || tun.Protocol() != want {
			t.Errorf("%q: stream goes over %s, protocol %q", transport, carried(s), tun.Protocol())
		}
		s.Close()
	}
	o := stockEdge(t, false, echo)
	o.Transport = TransportHTTP2
	if _, err := newTunnel(t, o).Connect(t.Context(), to); stageOf(err) != StageTLS {
		t.Errorf("h2 with an edge that speaks HTTP/1.1: %v", err)
	}
	o = wholeEdge(t)
	o.Transport = TransportHTTP1
	if _, err := newTunnel(t, o).ConnectUDP(t.Context(), to); !errors.Is(err, ErrNoDatagrams) {
		t.Errorf("UDP over http1: %v", err)
	}
}

func TestQUICUsesTheSocketsThatItIsGiven(t *testing.T) {
	o := wholeEdge(t)
	o.Transport = TransportHTTP3
	var made int
	o.ListenPacket = func(ctx context.Context, network, address string) (net.PacketConn, error) {
		if made++; network != "udp" || address != "0.0.0.0:0" {
			t.Errorf("asked for %s %s", network, address)
		}
		return new(net.ListenConfig).ListenPacket(ctx, network, address)
	}
	s, err := newTunnel(t, o).Connect(t.Context(), originTCP(t, echoTCP))
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if made != 1 {
		t.Errorf("%d sockets were made, want 1", made)
	}
}

func TestLostQUICConnectionIsReplaced(t *testing.T) {
	o := wholeEdge(t)
	o.Transport = TransportHTTP3
	tun := newTunnel(t, o)
	_, r := connectUDP(t, tun, echoUDP(t), "h3")
	tun.h3.mu.Lock()
	c := tun.h3.conns[0]
	tun.h3.mu.Unlock()
	c.end(errSilent)
	if err := r.end(t); !errors.Is(err, ErrReset) {
		t.Errorf("Receive returns %v", err)
	}
	d, r := connectUDP(t, tun, echoUDP(t), "h3")
	d.Send([][]byte{[]byte("hello")})
	if got := r.next(t); string(got) != "hello" {
		t.Errorf("received %q", got)
	}
}
