package edge

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/quic-go/quic-go/http3"
)

// testFlow is the client's end of a flow.
type testFlow interface {
	io.ReadWriter
	closeWrite()
	reset()
}

// http1Flow is a flow over HTTP/1.1.
type http1Flow struct {
	*tls.Conn
	reader *bufio.Reader
}

func (f *http1Flow) Read(p []byte) (int, error) { return f.reader.Read(p) }

func (f *http1Flow) closeWrite() { f.CloseWrite() }

func (f *http1Flow) reset() {
	tcp := f.NetConn().(*net.TCPConn)
	tcp.SetLinger(0)
	tcp.Close()
}

// dialHTTP1 connects to an edge for one request.
func dialHTTP1(tb testing.TB, addr net.Addr, config *tls.Config) *tls.Conn {
	tb.Helper()
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"}
	conn, err := tls.Dial("tcp", addr.String(), config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.NetConn().Close() })
	return conn
}

// protocols open flows, each in its own way, and fail the test unless the edge
// answers 200.
var protocols = map[string]func(testing.TB, net.Addr, *tls.Config, string) testFlow{
	"h2": func(tb testing.TB, addr net.Addr, config *tls.Config, target string) testFlow {
		s := dialClient(tb, addr, config).connect(target)
		if status, err := s.status(); err != nil || status != "200" {
			tb.Fatalf("status %s, %v", status, err)
		}
		return s
	},
	"http/1.1": func(tb testing.TB, addr net.Addr, config *tls.Config, target string) testFlow {
		conn := dialHTTP1(tb, addr, config)
		io.WriteString(conn, "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n\r\n")
		reader := bufio.NewReader(conn)
		response, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
		if err != nil || response.StatusCode != http.StatusOK {
			tb.Fatalf("response %v, %v", response, err)
		}
		return &http1Flow{conn, reader}
	},
	"h3": func(tb testing.TB, addr net.Addr, config *tls.Config, target string) testFlow {
		f := request3(tb, addr, config, connectRequest(target))
		if f.response.StatusCode != http.StatusOK {
			tb.Fatalf("response %v", f.response)
		}
		return f
	},
}

// eachProtocol runs the test with a flow to an origin.
func eachProtocol(t *testing.T, origin func(*net.TCPConn), test func(*testing.T, testFlow)) {
	for name, open := range protocols {
		t.Run(name, func(t *testing.T) {
			target := serveOrigin(t, origin)
			_, addr, config := serve(t, speaking(name))
			test(t, open(t, addr, config, target))
		})
	}
}

func TestFlowCarriesBytesBothWays(t *testing.T) {
	eachProtocol(t, func(conn *net.TCPConn) { io.Copy(conn, conn) }, func(t *testing.T, flow testFlow) {
		sent := make([]byte, 8<<20)
		rand.Read(sent)
		go func() {
			for p := sent; len(p) > 0; {
				n, err := flow.Write(p[:min(len(p), 100_000)])
				if err != nil {
					t.Error(err)
					return
				}
				p = p[n:]
			}
			flow.closeWrite()
		}()
		if received, err := io.ReadAll(flow); err != nil || !bytes.Equal(received, sent) {
			t.Errorf("received %d bytes, %v, want the %d that were sent", len(received), err, len(sent))
		}
	})
}

func TestClientCanHalfClose(t *testing.T) {
	answer := func(conn *net.TCPConn) {
		question, _ := io.ReadAll(conn)
		conn.Write(append([]byte("answer to "), question...))
	}
	eachProtocol(t, answer, func(t *testing.T, flow testFlow) {
		io.WriteString(flow, "question")
		flow.closeWrite()
		if got, err := io.ReadAll(flow); err != nil || string(got) != "answer to question" {
			t.Errorf("received %q, %v", got, err)
		}
	})
}

func TestDestinationCanHalfClose(t *testing.T) {
	received := make(chan string, 1)
	listen := func(conn *net.TCPConn) {
		io.WriteString(conn, "greeting")
		conn.CloseWrite()
		all, err := io.ReadAll(conn)
		if err != nil {
			all = []byte(err.Error())
		}
		received <- string(all)
	}
	eachProtocol(t, listen, func(t *testing.T, flow testFlow) {
		if got, err := io.ReadAll(flow); err != nil || string(got) != "greeting" {
			t.Fatalf("received %q, %v", got, err)
		}
		long := strings.Repeat("after the end ", 50_000)
		if _, err := io.WriteString(flow, long); err != nil {
			t.Fatal(err)
		}
		flow.closeWrite()
		if got := <-received; got != long {
			t.Errorf("the destination received %d bytes, want %d", len(got), len(long))
		}
	})
}

func TestDestinationResetIsPassedOn(t *testing.T) {
	reset := func(conn *net.TCPConn) {
		io.ReadFull(conn, make([]byte, 1))
		conn.SetLinger(0)
	}
	eachProtocol(t, reset, func(t *testing.T, flow testFlow) {
		flow.Write([]byte("x"))
		_, err := flow.Read(make([]byte, 1))
		if s, ok := flow.(*clientStream); ok {
			if !errors.Is(err, errStreamReset) || s.resetCode() != "CONNECT_ERROR" {
				t.Errorf("Read = %v, want a reset with CONNECT_ERROR", err)
			}
		} else if _, ok := flow.(*http3Flow); ok {
			if broken, ok := errors.AsType[*http3.Error](err); !ok || broken.ErrorCode != http3.ErrCodeConnectError {
				t.Errorf("Read = %v, want a reset with H3_CONNECT_ERROR", err)
			}
		} else if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Read = %v, want ECONNRESET", err)
		}
	})
}

func TestClientResetIsPassedOn(t *testing.T) {
	ended := make(chan error, 1)
	read := func(conn *net.TCPConn) {
		_, err := io.Copy(io.Discard, conn)
		ended <- err
	}
	eachProtocol(t, read, func(t *testing.T, flow testFlow) {
		flow.Write([]byte("x"))
		flow.reset()
		if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the destination read %v, want ECONNRESET", err)
		}
	})
}

func TestLostTunnelResetsTheDestination(t *testing.T) {
	ended := make(chan error, 1)
	target := serveOrigin(t, func(conn *net.TCPConn) {
		_, err := io.Copy(io.Discard, conn)
		ended <- err
	})
	_, addr, config := serve(t)
	c := dialClient(t, addr, config)
	if status, err := c.connect(target).status(); status != "200" {
		t.Fatal(status, err)
	}
	c.close()
	if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the destination read %v, want ECONNRESET", err)
	}
}

// What a destination has sent before it went reaches the client, also when the
// edge learns by a failed write that it went.
func TestBytesBeforeADestinationsEndAreNotLost(t *testing.T) {
	const size = 1 << 20
	answerAndGo := func(conn *net.TCPConn) {
		io.ReadFull(conn, make([]byte, 1))
		conn.Write(make([]byte, size))
		conn.CloseWrite()
	}
	eachProtocol(t, answerAndGo, func(t *testing.T, flow testFlow) {
		flow.Write([]byte("x"))
		if got, err := io.ReadAll(flow); err != nil || len(got) != size {
			t.Errorf("received %d bytes, %v, want %d", len(got), err, size)
		}
	})
}

func TestQuietDestinationTakesAllThatTheWindowsPermit(t *testing.T) {
	echoing := serveOrigin(t, echo)
	// The destination reads nothing until the client is stopped by the edge:
	// the client can't get rid of more than windows and socket buffers hold.
	release := make(chan struct{})
	drained := make(chan int64, 1)
	target := serveOrigin(t, func(conn *net.TCPConn) {
		conn.SetReadBuffer(64 << 10)
		<-release
		n, _ := io.Copy(io.Discard, conn)
		drained <- n
	})
	_, addr, config := serve(t)
	c := dialClient(t, addr, config)
	s := c.connect(target)
	if status, err := s.status(); status != "200" {
		t.Fatal(status, err)
	}
	sent := 0
	for {
		c.mu.Lock()
		window := c.initial + s.offset
		c.mu.Unlock()
		if window <= 0 {
			break
		}
		// Not a byte more, which could wait for ever.
		n, err := s.Write(make([]byte, min(window, 16384)))
		if err != nil {
			t.Fatal(err)
		}
		if sent += n; sent > 64<<20 {
			t.Fatalf("the edge took %d bytes that nobody reads", sent)
		}
	}
	// Another flow of the same connection is not held up.
	other := c.connect(echoing)
	io.WriteString(other, "ping")
	if _, err := io.ReadFull(other, make([]byte, 4)); err != nil {
		t.Errorf("another flow: %v", err)
	}
	close(release)
	s.closeWrite()
	if got := <-drained; got != int64(sent) {
		t.Errorf("the destination received %d bytes, want %d", got, sent)
	}
}
