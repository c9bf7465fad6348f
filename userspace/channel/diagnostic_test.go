package channel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

// piped is a stream that ends in this process.
type piped struct{ net.Conn }

func (p piped) CloseWrite() error { return nil }
func (p piped) Reset() error      { return p.Close() }

// diagnosed runs a channel of one edge, behind which the host of uri is served.
// serve returns when the stream has ended.
func diagnosed(t *testing.T, uri string, roots *x509.CertPool, serve func(net.Conn), test func(*testing.T, *rig)) {
	t.Helper()
	var serving sync.WaitGroup
	o := options{edges: "a", start: map[string]connect{
		"a": func(context.Context, string) (tunnel.Stream, error) {
			near, far := net.Pipe()
			serving.Go(func() {
				defer far.Close()
				serve(far)
			})
			return piped{near}, nil
		},
	}}
	o.Channel = policy.Channel{DiagnosticURI: uri}
	o.Roots = roots
	inBubble(t, o, func(t *testing.T, r *rig) {
		test(t, r)
		r.Close()
		serving.Wait()
	})
}

// answering reads a request and answers it.
func answering(request *string, answer string) func(net.Conn) {
	return func(conn net.Conn) {
		b := make([]byte, 4096)
		n, _ := conn.Read(b)
		*request = string(b[:n])
		io.WriteString(conn, answer)
	}
}

func TestDiagnosticHostIsAskedByHTTP(t *testing.T) {
	for uri, want := range map[string]struct{ authority, line, host string }{
		"http://ping.example/connectivity/ping": {"ping.example:80", "GET /connectivity/ping HTTP/1.1", "ping.example"},
		"http://ping.example":                   {"ping.example:80", "GET / HTTP/1.1", "ping.example"},
		"http://ping.example:8080/?a=b#c":       {"ping.example:8080", "GET /?a=b HTTP/1.1", "ping.example:8080"},
		"http://user:pw@ping.example/":          {"ping.example:80", "GET / HTTP/1.1", "ping.example"},
		"http://192.0.2.1/":                     {"192.0.2.1:80", "GET / HTTP/1.1", "192.0.2.1"},
		"http://[2001:db8::1]/":                 {"[2001:db8::1]:80", "GET / HTTP/1.1", "[2001:db8::1]"},
	} {
		t.Run(uri, func(t *testing.T) {
			var request string
			diagnosed(t, uri, nil, answering(&request, "HTTP/1.1 204 Fine\r\n\r\n"), func(t *testing.T, r *rig) {
				if n := len(r.edges["a"].times(want.authority)); n != 1 || len(r.edges["a"].calls) != 1 {
					t.Errorf("the edge was asked for %v, want %s", r.edges["a"].calls, want.authority)
				}
				if s := r.Status(); s.Diagnostic != "204 No Content" || s.State != StateUp {
					t.Errorf("status %+v", s)
				}
				want := want.line + "\r\nHost: " + want.host + "\r\nUser-Agent: bpfacq\r\nConnection: close\r\n\r\n"
				if request != want {
					t.Errorf("the host was asked %q, want %q", request, want)
				}
			})
		})
	}
}

func TestDiagnosticHostIsAskedByTLS(t *testing.T) {
	certificate, roots := exampleCertificate(t)
	serve := func(conn net.Conn) {
		secure := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{certificate}})
		var request string
		answering(&request, "HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\nbody")(secure)
	}
	for name, test := range map[string]struct {
		uri       string
		roots     *x509.CertPool
		authority string
		want      string
	}{
		"trusted":         {"https://example.com/ping", roots, "example.com:443", "200 OK"},
		"other port":      {"https://example.com:8443/ping", roots, "example.com:8443", "200 OK"},
		"other name":      {"https://example.net/ping", roots, "example.net:443", "ask diagnostic host: tls: failed to verify certificate"},
		"not trusted":     {"https://example.com/ping", x509.NewCertPool(), "example.com:443", "ask diagnostic host: tls: failed to verify certificate"},
		"not speaking it": {"http://example.com:443/ping", roots, "example.com:443", "ask diagnostic host: "},
	} {
		t.Run(name, func(t *testing.T) {
			diagnosed(t, test.uri, test.roots, serve, func(t *testing.T, r *rig) {
				if n := len(r.edges["a"].times(test.authority)); n != 1 || len(r.edges["a"].calls) != 1 {
					t.Errorf("the edge was asked for %v, want %s", r.edges["a"].calls, test.authority)
				}
				if s := r.Status(); !strings.HasPrefix(s.Diagnostic, test.want) || s.State != StateUp {
					t.Errorf("status %+v, want %q", s, test.want)
				}
			})
		})
	}
}

// exampleCertificate is for example.com, and valid in fake time too.
func exampleCertificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return server.TLS.Certificates[0], roots
}

func TestHostileDiagnosticHostIsBounded(t *testing.T) {
	endless := func(start, line string) func(net.Conn) {
		return func(conn net.Conn) {
			conn.Read(make([]byte, 4096))
			io.WriteString(conn, start)
			for {
				if _, err := io.WriteString(conn, line); err != nil {
					return
				}
			}
		}
	}
	var request string
	for name, test := range map[string]struct {
		uri   string
		serve func(net.Conn)
		after time.Duration
		want  string
	}{
		"header without end": {"http://ping.example/", endless("HTTP/1.1 200 OK\r\n", "A: "+strings.Repeat("b", 1000)+"\r\n"), 0, "ask diagnostic host: answer too long"},
		"line without end":   {"http://ping.example/", endless("HTTP/1.1 200 ", "OK"), 0, "ask diagnostic host: answer too long"},
		"body without end":   {"http://ping.example/", endless("HTTP/1.1 200 OK\r\n\r\n", "body"), 0, "200 OK"},
		"terminal codes":     {"http://ping.example/", answering(&request, "HTTP/1.1 200 \x1b[2J\r\n\r\n"), 0, "200 OK"},
		"codes in an error":  {"http://ping.example/", answering(&request, "\x1b[2J\r\n\r\n"), 0, `ask diagnostic host: malformed HTTP response "\x1b[2J"`},
		"unknown status":     {"http://ping.example/", answering(&request, "HTTP/1.1 799 What\r\n\r\n"), 0, "799"},
		"no HTTP":            {"http://ping.example/", answering(&request, ""), 0, "ask diagnostic host: unexpected EOF"},
		"silence":            {"http://ping.example/", swallow, probeTimeout, "ask diagnostic host: no answer in time"},
		"silence under TLS":  {"https://ping.example/", swallow, probeTimeout, "ask diagnostic host: no answer in time"},
		"deaf":               {"http://ping.example/", deaf, probeTimeout, "ask diagnostic host: no answer in time"},
		"no TLS":             {"https://ping.example/", endless("", "HTTP/1.1 200 OK\r\n"), 0, "ask diagnostic host: tls: first record does not look like a TLS handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			diagnosed(t, test.uri, nil, test.serve, func(t *testing.T, r *rig) {
				r.wantState(StateUp) // the edge has answered, whatever its host does
				if s := r.Status(); test.after > 0 && s.Diagnostic != "" {
					t.Errorf("diagnostic %q before the host has answered", s.Diagnostic)
				}
				r.pass(test.after)
				r.wantState(StateUp)
				if s := r.Status(); s.Diagnostic != test.want {
					t.Errorf("diagnostic %q, want %q", s.Diagnostic, test.want)
				}
			})
		})
	}
}

// swallow reads and says nothing.
func swallow(conn net.Conn) { io.Copy(io.Discard, conn) }

// deaf does not even read, until the stream ends.
func deaf(net.Conn) { <-time.After(2 * probeTimeout) }

func TestCloseCutsTheDiagnosticHostShort(t *testing.T) {
	diagnosed(t, "https://ping.example/", nil, swallow, func(t *testing.T, r *rig) {
		r.wantState(StateUp)
		before := time.Now()
		r.Close()
		if d := time.Since(before); d != 0 {
			t.Errorf("Close took %v", d)
		}
		synctest.Wait()
		r.wantSeen(StateUp)
	})
}

func TestRefusedDiagnosticHostLeavesTheChannelUp(t *testing.T) {
	o := options{edges: "a x", start: map[string]connect{"a": refusing(403)}}
	o.Channel = policy.Channel{DiagnosticURI: "https://ping.example/"}
	inBubble(t, o, func(t *testing.T, r *rig) {
		r.pass(time.Hour)
		r.wantState(StateUp)
		r.wantSeen(StateUp)
		if s := r.Status(); s.Diagnostic != "edge refused CONNECT: status 403" || s.Edge != "a:443" {
			t.Errorf("status %+v", s)
		}
		if a, x := r.edges["a"].calls, r.edges["x"].calls; len(x) != 0 || len(a) != len(r.edges["a"].times("ping.example:443")) {
			t.Errorf("the probes asked a for %v and x for %v", a, x)
		}
	})
}

func TestWithoutDiagnosticHostTheEdgeIsAskedForItsLoopback(t *testing.T) {
	for _, uri := range []string{"", "no URI", "https://", "https:opaque", "http://[::1", "%zz"} {
		t.Run(uri, func(t *testing.T) {
			o := options{edges: "a"}
			o.Channel = policy.Channel{DiagnosticURI: uri}
			inBubble(t, o, func(t *testing.T, r *rig) {
				r.wantState(StateUp)
				if n := len(r.edges["a"].probes()); n != 1 || len(r.edges["a"].calls) != 1 {
					t.Errorf("the edge was asked for %v", r.edges["a"].calls)
				}
				if s := r.Status(); s.Diagnostic != "" {
					t.Errorf("diagnostic %q without a host to ask", s.Diagnostic)
				}
			})
		})
	}
}

func TestEdgeIsAskedForItsLoopbackWhereTheHostCannotBeAskedFor(t *testing.T) {
	picky := func(_ context.Context, authority string) (tunnel.Stream, error) {
		if authority != ownLoopback {
			return nil, errors.New("malformed authority")
		}
		return quiet{}, nil
	}
	o := options{edges: "a", start: map[string]connect{"a": picky}}
	o.Channel = policy.Channel{DiagnosticURI: "https://ping.example:99999/"}
	inBubble(t, o, func(t *testing.T, r *rig) {
		r.wantState(StateUp)
		if s := r.Status(); s.Diagnostic != "malformed authority" {
			t.Errorf("diagnostic %q", s.Diagnostic)
		}
	})
}

func TestDiagnosticIsForgottenWhenTheChannelIsDown(t *testing.T) {
	o := options{edges: "a", start: map[string]connect{"a": refusing(502)}}
	o.Channel = policy.Channel{DiagnosticURI: "https://ping.example/"}
	inBubble(t, o, func(t *testing.T, r *rig) {
		r.edges["a"].turn(unreached)
		r.pass(20 * time.Second)
		r.wantState(StateDown)
		if s := r.Status(); s.Diagnostic != "" {
			t.Errorf("diagnostic %q of a channel that is down", s.Diagnostic)
		}
		r.edges["a"].turn(refusing(403))
		r.pass(11 * time.Second)
		if s := r.Status(); s.Diagnostic != "edge refused CONNECT: status 403" {
			t.Errorf("diagnostic %q of a channel that is up again", s.Diagnostic)
		}
	})
}
