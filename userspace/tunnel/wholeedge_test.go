package tunnel

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/userspace/edge"
)

// wholeEdge starts the project's own edge, over TCP and QUIC, and returns the
// options of a tunnel to it.
func wholeEdge(tb testing.TB, change ...func(*edge.Options)) Options {
	tb.Helper()
	return wholeEdgeAt(tb, "127.0.0.1:0", change...)
}

func wholeEdgeAt(tb testing.TB, address string, change ...func(*edge.Options)) Options {
	tb.Helper()
	cert, roots := certificate()
	o := edge.Options{
		Certificate:   cert,
		HTTP3:         true,
		Allow:         []string{"127.0.0.0/8:1-65535", "[::1]:1-65535"},
		AllowLoopback: true,
		DrainTimeout:  time.Millisecond,
		HeaderTimeout: time.Minute, // on a busy machine
	}
	for _, c := range change {
		c(&o)
	}
	e, err := edge.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() {
		if err := e.Serve(ctx, ln); err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(func() {
		cancel()
		served.Wait()
	})
	return Options{
		Address:    ln.Addr().String(),
		ServerName: "edge.example",
		Secure:     true,
		TLS:        &tls.Config{RootCAs: roots},

		DialTimeout: time.Minute, // on a busy machine
	}
}

// echoUDP sends back the datagrams that it receives, and returns its address.
func echoUDP(tb testing.TB) string {
	tb.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	var echoing sync.WaitGroup
	echoing.Go(func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			conn.WriteToUDPAddrPort(b[:n], from)
		}
	})
	tb.Cleanup(func() {
		conn.Close()
		echoing.Wait()
	})
	return conn.LocalAddr().String()
}

// receipt collects what a flow receives.
type receipt struct {
	got  chan []byte
	over chan error
}

func receive(d Datagrams) *receipt {
	r := &receipt{make(chan []byte, 4096), make(chan error, 1)}
	go func() {
		r.over <- d.Receive(func(batch [][]byte) {
			for _, payload := range batch {
				r.got <- bytes.Clone(payload)
			}
		})
	}()
	return r
}

// soon is longer than anything takes that is expected to happen.
const soon = 60 * time.Second

func (r *receipt) next(t testing.TB) []byte {
	t.Helper()
	select {
	case payload := <-r.got:
		return payload
	case err := <-r.over:
		r.over <- err
		if len(r.got) > 0 {
			return <-r.got
		}
		t.Fatalf("flow is over: %v", err)
	case <-time.After(soon):
		t.Fatal("nothing received")
	}
	return nil
}

// some waits for n datagrams, but for a lost one not for long, and returns how
// many came.
func (r *receipt) some(n int) int {
	for i := range n {
		select {
		case <-r.got:
		case <-time.After(200 * time.Millisecond):
			return i
		}
	}
	return n
}

func (r *receipt) end(t testing.TB) error {
	t.Helper()
	select {
	case err := <-r.over:
		return err
	case <-time.After(soon):
		t.Fatal("flow does not end")
	}
	return nil
}

// carried names what carries a flow.
func carried(flow any) string {
	switch flow.(type) {
	case *h2Stream, *h2Datagrams:
		return "h2"
	case *h3Stream, *h3Datagrams:
		return "h3"
	case *h1Stream:
		return "http/1.1"
	}
	return fmt.Sprintf("%T", flow)
}

func connectUDP(t testing.TB, tun *Tunnel, authority, protocol string) (Datagrams, *receipt) {
	t.Helper()
	d, err := tun.ConnectUDP(t.Context(), authority)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	if got := carried(d); got != protocol {
		t.Fatalf("datagrams go over %s, want %s", got, protocol)
	}
	return d, receive(d)
}

// bothCarriers runs a test with a tunnel that carries datagrams over each
// protocol.
func bothCarriers(t *testing.T, test func(t *testing.T, tun *Tunnel, protocol string)) {
	for _, transport := range []Transport{TransportHTTP2, TransportHTTP3} {
		t.Run(string(transport), func(t *testing.T) {
			o := wholeEdge(t)
			o.Transport = transport
			test(t, newTunnel(t, o), string(transport))
		})
	}
}

func TestDatagramsOfAllSizesComeBackWhole(t *testing.T) {
	bothCarriers(t, func(t *testing.T, tun *Tunnel, protocol string) {
		d, r := connectUDP(t, tun, echoUDP(t), protocol)
		for _, size := range []int{0, 1, 62, 63, 1200, 1252, 1472, 4000, 9000, 16384, 65000, 65507} {
			sent := randomBytes(size)
			if err := d.Send([][]byte{sent}); err != nil {
				t.Fatal(err)
			}
			if got := r.next(t); !bytes.Equal(got, sent) {
				t.Errorf("%d bytes came back as %d", size, len(got))
			}
		}
		if n := d.Dropped(); n != 0 {
			t.Errorf("%d datagrams were dropped", n)
		}
		if len(r.got) > 0 {
			t.Errorf("%d datagrams more came", len(r.got))
		}
	})
}

func TestBatchesKeepTheirDatagramsApart(t *testing.T) {
	bothCarriers(t, func(t *testing.T, tun *Tunnel, protocol string) {
		d, r := connectUDP(t, tun, echoUDP(t), protocol)
		for round := range 8 {
			var sent, got [][]byte
			for i := range 16 {
				sent = append(sent, append([]byte{byte(round), byte(i)}, randomBytes(100*i)...))
			}
			if err := d.Send(sent); err != nil {
				t.Fatal(err)
			}
			for range sent {
				got = append(got, r.next(t))
			}
			// Capsules and QUIC datagrams may overtake each other.
			slices.SortFunc(got, func(a, b []byte) int { return cmp.Compare(a[1], b[1]) })
			if !slices.EqualFunc(got, sent, bytes.Equal) {
				t.Errorf("round %d comes back changed", round)
			}
		}
	})
}

func TestFlowsOfDatagramsDoNotMix(t *testing.T) {
	bothCarriers(t, func(t *testing.T, tun *Tunnel, protocol string) {
		to := echoUDP(t)
		var flows sync.WaitGroup
		for i := range 16 {
			d, r := connectUDP(t, tun, to, protocol)
			flows.Go(func() {
				for range 20 {
					sent := []byte{byte(i), 1, 2}
					d.Send([][]byte{sent})
					select {
					case got := <-r.got:
						if !bytes.Equal(got, sent) {
							t.Errorf("flow %d received %x", i, got)
						}
					case <-time.After(soon):
						t.Errorf("flow %d received nothing", i)
						return
					}
				}
			})
		}
		flows.Wait()
	})
}

func TestCloseEndsBothWaysOfDatagrams(t *testing.T) {
	bothCarriers(t, func(t *testing.T, tun *Tunnel, protocol string) {
		d, r := connectUDP(t, tun, echoUDP(t), protocol)
		for range 2 {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := r.end(t); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Receive returns %v", err)
		}
		if err := d.Send([][]byte{{1}}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Send returns %v", err)
		}
		if _, other := connectUDP(t, tun, echoUDP(t), protocol); len(other.over) > 0 {
			t.Errorf("another flow is over: %v", <-other.over)
		}
	})
}

func TestTunnelThatClosesEndsItsDatagrams(t *testing.T) {
	bothCarriers(t, func(t *testing.T, tun *Tunnel, protocol string) {
		d, r := connectUDP(t, tun, echoUDP(t), protocol)
		tun.Close()
		if err := r.end(t); !errors.Is(err, ErrReset) {
			t.Errorf("Receive returns %v", err)
		}
		if err := d.Send([][]byte{{1}}); err == nil {
			t.Error("Send takes datagrams of a flow that is over")
		}
		if _, err := tun.ConnectUDP(t.Context(), "127.0.0.1:1"); err == nil || errors.Is(err, ErrNoDatagrams) {
			t.Errorf("ConnectUDP of a closed tunnel returns %v", err)
		}
	})
}

func TestEdgeThatFindsDatagramsQuietEndsThemInOrder(t *testing.T) {
	for _, transport := range []Transport{TransportHTTP2, TransportHTTP3} {
		t.Run(string(transport), func(t *testing.T) {
			o := wholeEdge(t, func(o *edge.Options) { o.UDPIdleTimeout = 100 * time.Millisecond })
			o.Transport = transport
			_, r := connectUDP(t, newTunnel(t, o), echoUDP(t), string(transport))
			if err := r.end(t); err != io.EOF {
				t.Errorf("Receive returns %v", err)
			}
		})
	}
}

func TestRefusalOfDatagramsSaysNothingOfTheEdge(t *testing.T) {
	for _, transport := range []Transport{TransportHTTP2, TransportHTTP3} {
		t.Run(string(transport), func(t *testing.T) {
			o := wholeEdge(t, func(o *edge.Options) { o.Allow = []string{"192.0.2.1:1"} })
			o.Transport = transport
			d, err := newTunnel(t, o).ConnectUDP(t.Context(), "127.0.0.1:9")
			refused, ok := errors.AsType[*RefusedError](err)
			if d != nil || !ok || refused.Status != 403 || errors.Is(err, ErrNoDatagrams) {
				t.Errorf("%v and %v", d, err)
			}
		})
	}
}

func TestEdgesWithoutDatagramsAreTold(t *testing.T) {
	for name, o := range map[string]Options{
		"HTTP/2 without extended CONNECT": stockEdge(t, true, echo),
		"HTTP/1.1":                        stockEdge(t, false, echo),
		"cleartext":                       {Address: "127.0.0.1:1"},
	} {
		tun := newTunnel(t, o)
		if d, err := tun.ConnectUDP(t.Context(), "127.0.0.1:9"); d != nil || !errors.Is(err, ErrNoDatagrams) {
			t.Errorf("%s: %v and %v", name, d, err)
		}
		if name == "cleartext" {
			continue
		}
		s, err := tun.Connect(t.Context(), "host.example:1")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		s.Close()
	}
}
