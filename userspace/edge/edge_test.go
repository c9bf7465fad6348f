package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs an edge on loopback that allows loopback, and closes it with the
// test.
func serve(tb testing.TB, change ...func(*Options)) (*Edge, net.Addr, *tls.Config) {
	tb.Helper()
	certificate, err := SelfSigned([]string{"edge.test"}, time.Hour)
	if err != nil {
		tb.Fatal(err)
	}
	o := Options{
		Listen:        "127.0.0.1:0",
		Certificate:   certificate,
		Allow:         []string{"127.0.0.0/8:*", "[::1]:*"},
		AllowLoopback: true,
		DrainTimeout:  time.Millisecond,
		HeaderTimeout: time.Minute, // on a busy machine
		DialTimeout:   time.Minute,
	}
	for _, f := range change {
		f(&o)
	}
	e, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	ln, err := e.Listen(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- e.Serve(context.Background(), ln) }()
	tb.Cleanup(func() {
		e.Close()
		if err := <-served; err != nil {
			tb.Errorf("Serve = %v, want nil", err)
		}
	})
	return e, ln.Addr(), trust(certificate)
}

// serveOrigin accepts on loopback; each connection is serve's until it returns.
func serveOrigin(tb testing.TB, serve func(*net.TCPConn)) string {
	tb.Helper()
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	tb.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

func TestServeEndsWhenItsContextDoes(t *testing.T) {
	e := newTestEdge(t)
	ln := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- e.Serve(ctx, ln) }()
	dialClient(t, ln.Addr(), trust(e.options.Certificate))
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve = %v, want nil", err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after Serve = %v, want net.ErrClosed", err)
	}
	if err := e.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
}

func TestServeSaysWhenItsListenerFails(t *testing.T) {
	e := newTestEdge(t)
	ln := listen(t)
	ln.Close()
	if err := e.Serve(t.Context(), ln); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve = %v, want net.ErrClosed", err)
	}
}

func TestEdgeServesOnce(t *testing.T) {
	closed := newTestEdge(t)
	closed.Close()
	closed.Close()
	served, addr, config := serve(t)
	dialClient(t, addr, config)
	for name, e := range map[string]*Edge{"closed": closed, "serving": served} {
		ln := listen(t)
		if err := e.Serve(t.Context(), ln); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: Serve = %v, want ErrClosed", name, err)
		}
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: the listener is open", name)
		}
	}
}

func TestCloseLetsFlowsFinish(t *testing.T) {
	for protocol, open := range protocols {
		t.Run(protocol, func(t *testing.T) {
			target := serveOrigin(t, echo)
			e, addr, config := serve(t, speaking(protocol), func(o *Options) { o.DrainTimeout = time.Minute })
			flow := open(t, addr, config, target)
			closed := make(chan struct{})
			go func() {
				e.Close()
				close(closed)
			}()
			<-e.closing
			if err := roundTrip(flow, 1, 100_000); err != nil {
				t.Errorf("flow during the drain: %v", err)
			}
			if f, ok := flow.(io.Closer); ok {
				f.Close()
			}
			<-closed
			if s, ok := flow.(*clientStream); ok {
				<-s.c.done
				if code := s.c.goAwayCode(); code != "NO_ERROR" {
					t.Errorf("GOAWAY %q, want NO_ERROR", code)
				}
			}
		})
	}
}

func TestCloseResetsFlowsThatDoNotFinish(t *testing.T) {
	for protocol, open := range protocols {
		t.Run(protocol, func(t *testing.T) {
			ended := make(chan error, 1)
			target := serveOrigin(t, func(conn *net.TCPConn) {
				_, err := io.Copy(io.Discard, conn)
				ended <- err
			})
			e, addr, config := serve(t, speaking(protocol))
			flow := open(t, addr, config, target)
			e.Close()
			if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the destination read %v, want ECONNRESET", err)
			}
			if _, err := flow.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("the client read %v, want an error", err)
			}
		})
	}
}

func TestConnectionsOverTheLimitWait(t *testing.T) {
	_, addr, config := serve(t, func(o *Options) { o.MaxConnections = 1 })
	first := dialClient(t, addr, config)
	second, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	handshake := make(chan error, 1)
	over := tls.Client(second, config)
	go func() { handshake <- over.Handshake() }()
	if status, err := first.connect("192.0.2.1:80").status(); status != "403" {
		t.Errorf("first connection: status %s, %v", status, err)
	}
	select {
	case err := <-handshake:
		t.Errorf("the second connection is served beside the first: %v", err)
	default:
	}
	first.close()
	if err := <-handshake; err != nil {
		t.Errorf("the second connection after the first: %v", err)
	}
}

func TestTLSVersions(t *testing.T) {
	_, addr, config := serve(t)
	for version, want := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		config := config.Clone()
		config.MinVersion, config.MaxVersion = version, version
		conn, err := tls.Dial("tcp", addr.String(), config)
		if (err == nil) != want {
			t.Errorf("%s: %v, want accepted = %t", tls.VersionName(version), err, want)
		}
		if err == nil {
			if got := conn.ConnectionState().NegotiatedProtocol; got != "h2" {
				t.Errorf("%s: ALPN %q, want h2", tls.VersionName(version), got)
			}
			conn.NetConn().Close()
		}
	}
}

// The clients of net/http get through too.
func TestOtherClientsGetThrough(t *testing.T) {
	target := serveOrigin(t, echo)
	_, addr, config := serve(t)
	t.Run("h2", func(t *testing.T) {
		var h2 http.Protocols
		h2.SetHTTP2(true)
		transport := &http.Transport{TLSClientConfig: config, Protocols: &h2}
		defer transport.CloseIdleConnections()
		read, write := io.Pipe()
		request := &http.Request{
			Method: http.MethodConnect, Host: target, Body: read, ContentLength: -1,
			URL: &url.URL{Scheme: "https", Host: addr.String()}, Header: http.Header{},
		}
		response, err := transport.RoundTrip(request.WithContext(t.Context()))
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("response %v, %v", response, err)
		}
		go func() {
			io.WriteString(write, "through")
			write.Close()
		}()
		if got, err := io.ReadAll(response.Body); err != nil || string(got) != "through" {
			t.Errorf("received %q, %v", got, err)
		}
	})
	t.Run("http/1.1", func(t *testing.T) {
		site := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "through") }))
		defer site.Close()
		roots := config.RootCAs.Clone()
		roots.AddCert(site.Certificate())
		via := &http.Transport{
			Proxy:           http.ProxyURL(&url.URL{Scheme: "https", Host: "edge.test"}),
			TLSClientConfig: &tls.Config{RootCAs: roots},
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, addr.String())
			},
		}
		defer via.CloseIdleConnections()
		response, err := (&http.Client{Transport: via}).Get(site.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if got, err := io.ReadAll(response.Body); err != nil || string(got) != "through" {
			t.Errorf("received %q, %v", got, err)
		}
	})
}

func listen(tb testing.TB) net.Listener {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { ln.Close() })
	return ln
}
