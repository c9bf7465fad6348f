package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/userspace/edge"
)

// originTCP serves each connection with serve, and returns its address.
func originTCP(tb testing.TB, serve func(conn *net.TCPConn)) string {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				serve(conn.(*net.TCPConn))
			})
		}
	})
	tb.Cleanup(func() {
		ln.Close()
		serving.Wait()
	})
	return ln.Addr().String()
}

func echoTCP(conn *net.TCPConn) {
	io.Copy(conn, conn)
	conn.CloseWrite()
}

// connectHTTP3 returns a stream over HTTP/3 to what serves.
func connectHTTP3(t *testing.T, serve func(*net.TCPConn)) Stream {
	t.Helper()
	o := wholeEdge(t)
	o.Transport = TransportHTTP3
	s, err := newTunnel(t, o).Connect(t.Context(), originTCP(t, serve))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if got := carried(s); got != "h3" {
		t.Fatalf("stream goes over %s", got)
	}
	return s
}

func TestStreamsOverHTTP3CarryTheirBytesUnmixed(t *testing.T) {
	o := wholeEdge(t)
	o.Transport = TransportHTTP3
	tun := newTunnel(t, o)
	to := originTCP(t, echoTCP)
	var flows sync.WaitGroup
	for range 16 {
		flows.Go(func() {
			s, err := tun.Connect(t.Context(), to)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			sent := randomBytes(200 << 10)
			flows.Go(func() {
				if _, err := s.Write(sent); err != nil {
					t.Error(err)
				}
				if err := s.CloseWrite(); err != nil {
					t.Error(err)
				}
			})
			if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("got %d bytes back, error %v", len(got), err)
			}
		})
	}
	flows.Wait()
	if got := tun.Protocol(); got != "h3" {
		t.Errorf("protocol is %q", got)
	}
}

func TestHalfClosedStreamOverHTTP3GoesOn(t *testing.T) {
	s := connectHTTP3(t, func(conn *net.TCPConn) {
		asked, _ := io.ReadAll(conn)
		conn.Write(append([]byte("you said "), asked...))
	})
	io.WriteString(s, "hello")
	for range 2 {
		if err := s.CloseWrite(); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Write([]byte("more")); !errors.Is(err, errWriteEnded) {
		t.Errorf("Write returns %v", err)
	}
	if got, err := io.ReadAll(s); string(got) != "you said hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestEdgeThatEndsFirstOverHTTP3StillReads(t *testing.T) {
	heard := make(chan string, 1)
	s := connectHTTP3(t, func(conn *net.TCPConn) {
		conn.CloseWrite()
		b, _ := io.ReadAll(conn)
		heard <- string(b)
	})
	if got, err := io.ReadAll(s); len(got) > 0 || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	io.WriteString(s, "hello")
	s.CloseWrite()
	if got := <-heard; got != "hello" {
		t.Errorf("origin heard %q", got)
	}
}

func TestResetOverHTTP3GoesBothWays(t *testing.T) {
	t.Run("ours", func(t *testing.T) {
		broken := make(chan error, 1)
		s := connectHTTP3(t, func(conn *net.TCPConn) {
			_, err := io.ReadAll(conn)
			broken <- err
		})
		io.WriteString(s, "hello")
		reading := make(chan error)
		go func() {
			_, err := s.Read(make([]byte, 1))
			reading <- err
		}()
		s.Reset()
		if err := <-reading; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read returns %v", err)
		}
		if _, err := s.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write returns %v", err)
		}
		if err := <-broken; err == nil {
			t.Error("origin sees the end of a stream in order")
		}
	})
	t.Run("the origin's", func(t *testing.T) {
		s := connectHTTP3(t, func(conn *net.TCPConn) {
			conn.Read(make([]byte, 1))
			conn.SetLinger(0)
		})
		io.WriteString(s, "x")
		if _, err := io.ReadAll(s); !errors.Is(err, ErrReset) {
			t.Errorf("Read returns %v", err)
		}
	})
}

func TestRefusalOverHTTP3IsAnAnswer(t *testing.T) {
	o := wholeEdge(t, func(o *edge.Options) { o.Allow = []string{"192.0.2.1:1"} })
	o.Transport = TransportHTTP3
	tun := newTunnel(t, o)
	_, err := tun.Connect(t.Context(), "127.0.0.1:9")
	if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Status != 403 {
		t.Errorf("error %v", err)
	}
	if n := tun.h3.conns[0].load.Load(); n != 0 {
		t.Errorf("%d streams are open still", n)
	}
}

func TestContextEndsAConnectOverHTTP3(t *testing.T) {
	o := wholeEdge(t, func(o *edge.Options) { o.Resolver = deafResolver{} })
	o.Transport = TransportHTTP3
	tun := newTunnel(t, o)
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errTired)
	defer cancel()
	s, err := tun.Connect(ctx, "host.example:1")
	if s != nil || !errors.Is(err, errTired) {
		t.Errorf("%v, error %v", s, err)
	}
}

var errTired = errors.New("tired")

// deafResolver answers when it is not waited for any more.
type deafResolver struct{}

func (deafResolver) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
