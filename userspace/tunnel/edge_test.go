package tunnel

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stockEdge is a net/http server that answers CONNECT with serve on the
// stream's bytes.
func stockEdge(tb testing.TB, http2 bool, serve func(authority string, stream io.ReadWriteCloser)) Options {
	tb.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
			return
		}
		if r.ProtoMajor == 2 {
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			serve(r.Host, h2End{r.Body, w})
			return
		}
		conn, b, err := w.(http.Hijacker).Hijack()
		if err != nil {
			tb.Error(err)
			return
		}
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		serve(r.Host, h1End{conn, b.Reader})
		conn.Close()
	}))
	server.EnableHTTP2 = http2
	server.StartTLS()
	tb.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return Options{
		Address: server.Listener.Addr().String(),
		Secure:  true,
		TLS:     &tls.Config{RootCAs: roots},
	}
}

// h2End is the edge's end of a stream over HTTP/2.
type h2End struct {
	io.ReadCloser
	w http.ResponseWriter
}

func (e h2End) Write(b []byte) (int, error) {
	n, err := e.w.Write(b)
	e.w.(http.Flusher).Flush()
	return n, err
}

// h1End is the edge's end of a stream over HTTP/1.1.
type h1End struct {
	net.Conn
	r *bufio.Reader
}

func (e h1End) Read(b []byte) (int, error) { return e.r.Read(b) }

// echo sends back what it receives, through a buffer of 64 KiB.
func echo(_ string, stream io.ReadWriteCloser) {
	buf := make([]byte, 64<<10)
	for {
		n, err := stream.Read(buf)
		if n > 0 {
			if _, err := stream.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func newTunnel(tb testing.TB, o Options) *Tunnel {
	tb.Helper()
	t := New(o)
	tb.Cleanup(func() { t.Close() })
	return t
}
