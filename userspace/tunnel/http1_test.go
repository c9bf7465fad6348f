package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// answerHTTP1 takes the next connection, reads a request and writes answer. The
// connection is left to the test, which closes it.
func (e *fakeEdge) answerHTTP1(t *testing.T, answer string) (net.Conn, *http.Request) {
	t.Helper()
	conn := e.accept(t)
	r, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		t.Error(err)
	}
	if _, err := io.WriteString(conn, answer); err != nil {
		t.Error(err)
	}
	return conn, r
}

func TestFirstHandshakeOfAnHTTP1EdgeIsUsed(t *testing.T) {
	for name, protocols := range map[string][]string{"ALPN answered": {"http/1.1"}, "no ALPN": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				edge := newFakeEdge(protocols...)
				o := edge.options()
				o.Authorization = func() string { return "Basic eDp5" }
				tun := New(o)
				defer tun.Close()
				a := start(t.Context(), tun, "name.example:443")
				conn, r := edge.answerHTTP1(t, "HTTP/1.1 200 Connection established\r\n\r\nearly")
				defer conn.Close()
				if synctest.Wait(); a.err != nil || !a.done || len(edge.dials) != 0 {
					t.Fatalf("done %v, error %v, %d dials more", a.done, a.err, len(edge.dials))
				}
				if r.Method != http.MethodConnect || r.RequestURI != "name.example:443" || r.Host != "name.example:443" ||
					r.Header.Get("Proxy-Authorization") != "Basic eDp5" || len(r.Header) != 1 {
					t.Errorf("request %s %s of %s with %v", r.Method, r.RequestURI, r.Host, r.Header)
				}
				b := make([]byte, 5)
				if _, err := io.ReadFull(a.stream, b); err != nil || string(b) != "early" {
					t.Errorf("read %q, %v", b, err)
				}
				start(t.Context(), tun, "next.example:443")
				next, r := edge.answerHTTP1(t, "HTTP/1.1 200 OK\r\n\r\n")
				defer next.Close()
				if r.Host != "next.example:443" {
					t.Errorf("request of %s", r.Host)
				}
			})
		})
	}
}

func TestHTTP1AnswersDecideConnect(t *testing.T) {
	rows := []struct {
		name, answer string
		status       int // of a RefusedError; zero wants a stream, unless is is set
		body         string
		is           error
	}{
		{"200", "HTTP/1.1 200 OK\r\n\r\n", 0, "", nil},
		{"200 of HTTP/1.0", "HTTP/1.0 200 Connection established\r\n\r\n", 0, "", nil},
		{"200 with a length that means nothing", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 0, "", nil},
		{"1xx first", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 0, "", nil},
		{"403 with body", "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403, "no", nil},
		{"407 without body", "HTTP/1.1 407 Auth\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n", 407, "", nil},
		{"502 whose body never ends", "HTTP/1.1 502 Bad\r\n\r\nno route", 502, "no route", nil},
		{"503 with a long body", "HTTP/1.1 503 Bad\r\n\r\n" + strings.Repeat("x", 2000), 503, strings.Repeat("x", snippetLen), nil},
		{"101", "HTTP/1.1 101 Switching\r\n\r\n", 0, "", errMalformed},
		{"endless 1xx", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", maxInterim), 0, "", errMalformed},
		{"huge header", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxHeaderList) + "\r\n", 0, "", errHeaderTooLarge},
		{"cut off", "HTTP/1.1 200 O", 0, "", io.ErrUnexpectedEOF},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				edge := newFakeEdge("http/1.1")
				tun := New(edge.options())
				defer tun.Close()
				a := start(t.Context(), tun, "name.example:443")
				conn := edge.accept(t)
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
					t.Fatal(err)
				}
				io.WriteString(conn, row.answer) // a long one meets a closed pipe
				if row.is == io.ErrUnexpectedEOF {
					conn.Close()
				}
				time.Sleep(time.Second) // of the bubble's time
				synctest.Wait()
				refused, ok := errors.AsType[*RefusedError](a.err)
				switch {
				case !a.done:
					t.Error("Connect waits on")
				case row.is != nil:
					if stageOf(a.err) != StageConnect || !errors.Is(a.err, row.is) {
						t.Errorf("error %v, want %v", a.err, row.is)
					}
				case row.status == 0:
					if a.err != nil {
						t.Error(a.err)
					}
				case !ok || refused.Status != row.status || refused.Body != row.body:
					t.Errorf("error %v with %+v", a.err, refused)
				}
			})
		})
	}
}

func TestHTTP1ConnectGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge := newFakeEdge("http/1.1")
		tun := New(edge.options())
		defer tun.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		a := start(ctx, tun, "name.example:443")
		conn, _ := edge.answerHTTP1(t, "")
		defer conn.Close()
		time.Sleep(time.Second)
		if synctest.Wait(); stageOf(a.err) != StageConnect || !errors.Is(a.err, context.DeadlineExceeded) {
			t.Errorf("error %v", a.err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("the connection stays")
		}
	})
}

func TestEdgeThatChangesItsProtocolIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge := newFakeEdge("http/1.1")
		tun := New(edge.options())
		defer tun.Close()
		start(t.Context(), tun, "a.example:443")
		old, _ := edge.answerHTTP1(t, "HTTP/1.1 200 OK\r\n\r\n")
		defer old.Close()
		edge.protocols = []string{"h2"}
		a := start(t.Context(), tun, "b.example:443")
		p := edge.acceptHTTP2(t)
		p.answer(1, false, "200")
		if synctest.Wait(); !a.done || a.err != nil {
			t.Fatalf("done %v, error %v", a.done, a.err)
		}
		p.close()
		edge.protocols = []string{"http/1.1"}
		b := start(t.Context(), tun, "c.example:443")
		back, _ := edge.answerHTTP1(t, "HTTP/1.1 200 OK\r\n\r\n")
		defer back.Close()
		if synctest.Wait(); !b.done || b.err != nil {
			t.Errorf("done %v, error %v", b.done, b.err)
		}
	})
}

// tcpEdge is an HTTP/1.1 edge on loopback TCP, whose first connection the test
// gets: TCP, and TLS on it or nil.
func tcpEdge(t *testing.T, secure bool) (s Stream, raw *net.TCPConn, conn *tls.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cert, roots := certificate()
	tun := newTunnel(t, Options{
		Address: l.Addr().String(), ServerName: "edge.example", Secure: secure, TLS: &tls.Config{RootCAs: roots},
	})
	done := make(chan error, 1)
	go func() {
		s, err = tun.Connect(t.Context(), "name.example:443")
		done <- err
	}()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	raw = accepted.(*net.TCPConn)
	t.Cleanup(func() { raw.Close() })
	edge := accepted
	if secure {
		conn = tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{cert}})
		edge = conn
	}
	if _, err := http.ReadRequest(bufio.NewReader(edge)); err != nil {
		t.Fatal(err)
	}
	io.WriteString(edge, "HTTP/1.1 200 OK\r\n\r\n")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return s, raw, conn
}

func TestHTTP1EndsAsTheEdgeEnds(t *testing.T) {
	rows := []struct {
		name   string
		secure bool
		end    func(raw *net.TCPConn, conn *tls.Conn)
		want   error
	}{
		{"close_notify", true, func(_ *net.TCPConn, conn *tls.Conn) { conn.CloseWrite() }, io.EOF},
		{"FIN without close_notify", true, func(raw *net.TCPConn, _ *tls.Conn) { raw.CloseWrite() }, io.EOF},
		{"FIN inside a record", true, func(raw *net.TCPConn, _ *tls.Conn) {
			raw.Write([]byte{23, 3, 3, 0, 99, 1})
			raw.CloseWrite()
		}, ErrReset},
		{"RST", true, func(raw *net.TCPConn, _ *tls.Conn) { raw.SetLinger(0); raw.Close() }, ErrReset},
		{"FIN in cleartext", false, func(raw *net.TCPConn, _ *tls.Conn) { raw.CloseWrite() }, io.EOF},
		{"RST in cleartext", false, func(raw *net.TCPConn, _ *tls.Conn) { raw.SetLinger(0); raw.Close() }, ErrReset},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			s, raw, conn := tcpEdge(t, row.secure)
			row.end(raw, conn)
			if n, err := s.Read(make([]byte, 1)); n != 0 || !errors.Is(err, row.want) || (row.want == ErrReset) == errors.Is(err, io.EOF) {
				t.Errorf("read %d, %v, want %v", n, err, row.want)
			}
			if row.want == io.EOF {
				if _, err := s.Write([]byte("on")); err != nil {
					t.Errorf("the other direction: %v", err)
				}
			}
			s.Close()
		})
	}
}

func TestHTTP1ReleaseIsSeenByTheEdge(t *testing.T) {
	for _, secure := range []bool{true, false} {
		rows := []struct {
			name    string
			release func(s Stream)
			rst     bool
		}{
			{"CloseWrite", func(s Stream) { s.CloseWrite() }, false},
			{"Reset", func(s Stream) { s.Reset() }, true},
			{"Close", func(s Stream) { s.Close() }, true},
		}
		for _, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				s, raw, conn := tcpEdge(t, secure)
				row.release(s)
				var edge net.Conn = raw
				if secure {
					edge = conn
				}
				if _, err := edge.Read(make([]byte, 1)); errors.Is(err, syscall.ECONNRESET) != row.rst || (err == io.EOF) == row.rst {
					t.Errorf("edge read %v", err)
				}
				if row.rst {
					if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
						t.Errorf("read error %v", err)
					}
					return
				}
				if n, err := raw.Read(make([]byte, 1)); n != 0 || err != io.EOF {
					t.Errorf("no FIN: read %d, %v", n, err)
				}
				io.WriteString(edge, "on")
				raw.CloseWrite()
				if got, err := io.ReadAll(s); string(got) != "on" || err != nil {
					t.Errorf("read %q, %v", got, err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				if n := len(s.(*h1Stream).tunnel.live); n != 0 {
					t.Errorf("the tunnel remembers %d streams", n)
				}
			})
		}
	}
}

func TestTunnelCloseResetsHTTP1Streams(t *testing.T) {
	s, raw, _ := tcpEdge(t, false)
	s.(*h1Stream).tunnel.Close()
	if _, err := raw.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("edge read %v", err)
	}
}

func FuzzHTTP1Answer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\nrest"))
	f.Add([]byte("HTTP/1.1 100 C\r\n\r\nHTTP/1.0 403 F\r\nContent-Length: 2\r\n\r\nno"))
	f.Add([]byte("HTTP/1.1 502 B\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		early, err := readAnswer(bytes.NewReader(b), func() {}, func([]string) {})
		if err != nil {
			if len(early) > 0 {
				t.Errorf("both %q and %v", early, err)
			}
			if refused, ok := errors.AsType[*RefusedError](err); ok && (len(refused.Body) > snippetLen || refused.Status/100 == 2) {
				t.Errorf("refusal %+v", refused)
			}
			return
		}
		if !bytes.Contains(b, early) {
			t.Errorf("invented %q", early)
		}
	})
}
