package channel

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

// realEdge is a net/http server on loopback that speaks CONNECT over TLS. It
// serves http://ping.example itself, echoes what flows to host send, and
// refuses everything else.
func realEdge(t *testing.T, http2 bool) *httptest.Server {
	t.Helper()
	edge := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != host && r.Host != "ping.example:80" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		stream, answer := io.Reader(r.Body), io.Writer(w)
		if r.ProtoMajor == 2 {
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
		} else {
			conn, buffered, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			stream, answer = buffered.Reader, conn
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		}
		if r.Host == host {
			b := make([]byte, 4)
			n, _ := io.ReadFull(stream, b)
			answer.Write(b[:n])
			return
		}
		if _, err := http.ReadRequest(bufio.NewReader(stream)); err == nil {
			io.WriteString(answer, "HTTP/1.1 204 No Content\r\n\r\n")
		}
	}))
	edge.EnableHTTP2 = http2
	edge.StartTLS()
	t.Cleanup(edge.Close)
	return edge
}

func TestRealEdgesAreUsedAndLeft(t *testing.T) {
	for _, http2 := range []bool{true, false} {
		t.Run(fmt.Sprintf("http2=%v", http2), func(t *testing.T) {
			first, second := realEdge(t, http2), realEdge(t, http2)
			roots := x509.NewCertPool()
			roots.AddCert(first.Certificate()) // the same for both
			changes := make(chan struct{}, 16)
			c := New(Options{
				Channel: policy.Channel{
					Primary:       []policy.Edge{edgeOf(first)},
					Secondary:     []policy.Edge{edgeOf(second)},
					DiagnosticURI: "http://ping.example/ping",
				},
				Tunnel: func(edge policy.Edge) Tunneler {
					return tunnel.New(tunnel.Options{
						Address: address(edge), Secure: edge.Secure,
						TLS: &tls.Config{RootCAs: roots},
					})
				},
				OnState: func() { changes <- struct{}{} },
			})
			defer func() {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}()
			await(t, changes)
			if s := c.Status(); s.State != StateUp || s.Edge != address(edgeOf(first)) {
				t.Fatalf("the channel is %+v", s)
			}

			stream, _, err := c.Connect(t.Context(), "ping.example:80")
			if err != nil {
				t.Fatal(err)
			}
			if got := c.fetch(t.Context(), stream); got != "204 No Content" {
				t.Errorf("the diagnostic host behind a real edge says %q", got)
			}
			stream.Close()

			echo(t, c, edgeOf(first))
			_, edge, err := c.Connect(t.Context(), "other.example:80")
			if refused, ok := errors.AsType[*tunnel.RefusedError](err); !ok || refused.Status != http.StatusForbidden || edge != edgeOf(first) {
				t.Errorf("a destination that the first edge refuses: %v through %v", err, edge)
			}
			first.CloseClientConnections()
			first.Close()
			echo(t, c, edgeOf(second))
			second.CloseClientConnections()
			second.Close()
			for {
				_, _, err := c.Connect(t.Context(), host)
				if errors.Is(err, ErrDown) {
					break
				}
				if err == nil {
					t.Fatal("a flow went through an edge that is closed")
				}
				await(t, changes)
			}
			if s := c.Status(); s.State != StateDown || s.Cause == "" {
				t.Errorf("the channel without an edge is %+v", s)
			}
		})
	}
}

func edgeOf(s *httptest.Server) policy.Edge {
	at := netip.MustParseAddrPort(s.Listener.Addr().String())
	return policy.Edge{Host: at.Addr().String(), Port: at.Port(), Secure: true}
}

// await waits for a change of state, so long that only a hang takes longer.
func await(t *testing.T, changes <-chan struct{}) {
	t.Helper()
	select {
	case <-changes:
	case <-time.After(30 * time.Second):
		t.Fatal("the channel's state does not change")
	}
}

// echo opens a flow, wants it to go through an edge, and to carry bytes.
func echo(t *testing.T, c *Channel, want policy.Edge) {
	t.Helper()
	stream, edge, err := c.Connect(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if edge != want {
		t.Errorf("the flow goes through %v, want %v", edge, want)
	}
	io.WriteString(stream, "ping")
	if b, err := io.ReadAll(stream); string(b) != "ping" || err != nil {
		t.Errorf("the flow carries %q, %v", b, err)
	}
}
