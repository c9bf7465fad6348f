package edge

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"
)

// ask sends one request in the named protocol, and returns the answer's status, fields
// (names in lower case) and body.
func ask(t *testing.T, protocol string, addr net.Addr, config *tls.Config, method, target string, fields ...string) (status string, header map[string]string, body string) {
	t.Helper()
	if protocol == "h3" {
		return ask3(t, addr, config, method, target, fields...)
	}
	if protocol == "h2" {
		request := []string{":method", method, ":scheme", "https", ":authority", addr.String(), ":path", target}
		if method == http.MethodConnect {
			request = []string{":method", method, ":authority", target}
		}
		s := dialClient(t, addr, config).request(true, append(request, fields...)...)
		if _, err := s.status(); err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(s)
		if err != nil {
			t.Fatal(err)
		}
		return s.fields[":status"], s.fields, string(all)
	}
	conn := dialHTTP1(t, addr, config)
	lines := method + " " + target + " HTTP/1.1\r\nHost: edge.test\r\n"
	for i := 0; i < len(fields); i += 2 {
		lines += fields[i] + ": " + fields[i+1] + "\r\n"
	}
	io.WriteString(conn, lines+"\r\n")
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	header = make(map[string]string)
	for name, values := range response.Header {
		header[strings.ToLower(name)] = values[0]
	}
	if method != http.MethodConnect || response.StatusCode != http.StatusOK {
		all, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		body = string(all)
	}
	return response.Status[:3], header, body
}

// takenPort is an address on which nobody listens, nor can for now: its port is
// bound.
func takenPort(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
}

func TestEdgeAnswersWhatBecomesNoFlow(t *testing.T) {
	closed, nobody := serveOrigin(t, echo), takenPort(t)
	tests := []struct {
		name, method, target string
		fields               []string
		status, body         string
		field, value         string
	}{
		{name: "destination not allowed", method: "CONNECT", target: "192.0.2.1:80", status: "403",
			body: "not an allowed destination", field: "proxy-status", value: "bpfacq; error=http_request_denied"},
		{name: "protected destination", method: "CONNECT", target: "169.254.169.254:80", status: "403",
			body: "metadata", field: "proxy-status", value: "bpfacq; error=destination_ip_prohibited"},
		{name: "nobody listens", method: "CONNECT", target: nobody, status: "502",
			body: "connection refused", field: "proxy-status", value: "bpfacq; error=connection_refused"},
		{name: "unknown name", method: "CONNECT", target: "unknown.corp.example:80", status: "502",
			body: "name has no address", field: "proxy-status", value: "bpfacq; error=dns_error"},
		{name: "no port", method: "CONNECT", target: "192.0.2.1", status: "400",
			body: "host:port", field: "proxy-status", value: "bpfacq; error=http_request_error"},
		{name: "no token", method: "CONNECT", target: closed, fields: []string{"proxy-authorization", ""}, status: "407",
			body: "bearer token", field: "proxy-authenticate", value: `Bearer realm="bpfacq"`},
		{name: "wrong token", method: "CONNECT", target: closed, fields: []string{"proxy-authorization", "Bearer secret2"}, status: "407",
			body: "bearer token", field: "proxy-authenticate", value: `Bearer realm="bpfacq"`},
		{name: "token of another scheme", method: "CONNECT", target: closed, fields: []string{"proxy-authorization", "Basic secret"}, status: "407",
			body: "bearer token", field: "proxy-authenticate", value: `Bearer realm="bpfacq"`},
		{name: "diagnostic path without token", method: "GET", target: DiagnosticPath, fields: []string{"x", "y"}, status: "200",
			body: "pong\n", field: "content-length", value: "5"},
		{name: "head of the diagnostic path", method: "HEAD", target: DiagnosticPath, status: "200",
			field: "content-length", value: "5"},
		{name: "another path", method: "GET", target: "/", status: "404",
			body: "CONNECT", field: "content-type", value: "text/plain; charset=utf-8"},
		{name: "another method", method: "POST", target: DiagnosticPath, status: "405",
			body: "CONNECT", field: "allow", value: "CONNECT, GET, HEAD"},
	}
	_, addr, config := serve(t, func(o *Options) {
		o.HTTP3 = true
		o.Token = "secret"
		o.Allow = append(o.Allow, "169.254.0.0/16:*", "*.corp.example:*")
		o.Resolver = names{}
	})
	for _, test := range tests {
		for protocol := range protocols {
			t.Run(protocol+" "+test.name, func(t *testing.T) {
				fields := test.fields
				if fields == nil {
					fields = []string{"proxy-authorization", "bearer secret"}
				}
				status, header, body := ask(t, protocol, addr, config, test.method, test.target, fields...)
				if status != test.status || !strings.Contains(body, test.body) || header[test.field] != test.value {
					t.Errorf("answer %s %v %q, want %s with %s: %s and a body with %q",
						status, header, body, test.status, test.field, test.value, test.body)
				}
				if test.method == http.MethodHead && body != "" {
					t.Errorf("body %q of a HEAD", body)
				}
			})
		}
	}
}

func TestEdgeAnswers504WhenADestinationIsSilent(t *testing.T) {
	_, addr, config := serve(t, func(o *Options) {
		o.Allow = append(o.Allow, "*.corp.example:*")
		o.Resolver = slow{}
		o.DialTimeout = 1
		o.HTTP3 = true
	})
	for protocol := range protocols {
		if status, _, _ := ask(t, protocol, addr, config, "CONNECT", "host.corp.example:80"); status != "504" {
			t.Errorf("%s: status %s, want 504", protocol, status)
		}
	}
}

func TestFlowsOverTheLimitAreRefused(t *testing.T) {
	for protocol, open := range protocols {
		t.Run(protocol, func(t *testing.T) {
			target := serveOrigin(t, echo)
			e, addr, config := serve(t, speaking(protocol), func(o *Options) { o.MaxFlows = 1 })
			first := open(t, addr, config, target)
			if status, _, _ := ask(t, protocol, addr, config, "CONNECT", target); status != "503" {
				t.Errorf("second flow: status %s, want 503", status)
			}
			first.closeWrite()
			if _, err := io.ReadAll(first); err != nil {
				t.Error(err)
			}
			// Over HTTP/1.1 the client sees the end just before the edge does.
			status := "503"
			for i := 0; i < 1000 && status == "503"; i++ {
				status, _, _ = ask(t, protocol, addr, config, "CONNECT", target)
			}
			if status != "200" {
				t.Errorf("flow after the first has ended: status %s, want 200", status)
			}
			if n := e.slots.Load(); n > 1 {
				t.Errorf("%d slots are taken", n)
			}
		})
	}
}

func TestMetricsCountFlows(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	target := serveOrigin(t, echo)
	e, addr, config := serve(t, func(o *Options) { o.Metrics = registry })
	c := dialClient(t, addr, config)
	s := c.connect(target)
	io.WriteString(s, "ping")
	if _, err := io.ReadFull(s, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if status, _ := c.connect("192.0.2.1:80").status(); status != "403" {
		t.Fatalf("status %s, want 403", status)
	}
	const running = `
# HELP bpfacq_edge_flows Flows being dialed or carried now.
# TYPE bpfacq_edge_flows gauge
bpfacq_edge_flows 1
# HELP bpfacq_edge_connections Connections of clients now.
# TYPE bpfacq_edge_connections gauge
bpfacq_edge_connections 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(running), "bpfacq_edge_flows", "bpfacq_edge_connections"); err != nil {
		t.Error(err)
	}
	c.close()
	e.carriers.Wait()
	const ended = `
# HELP bpfacq_edge_bytes_total Bytes carried between clients and destinations; sent is towards the destination.
# TYPE bpfacq_edge_bytes_total counter
bpfacq_edge_bytes_total{direction="received"} 4
bpfacq_edge_bytes_total{direction="sent"} 4
# HELP bpfacq_edge_flows Flows being dialed or carried now.
# TYPE bpfacq_edge_flows gauge
bpfacq_edge_flows 0
# HELP bpfacq_edge_flows_total Flows that clients asked for, by protocol (tcp or udp), verdict (pass or block) and its reason.
# TYPE bpfacq_edge_flows_total counter
bpfacq_edge_flows_total{protocol="tcp",reason="allowed",verdict="pass"} 1
bpfacq_edge_flows_total{protocol="tcp",reason="not-allowed",verdict="block"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(ended), "bpfacq_edge_flows", "bpfacq_edge_flows_total", "bpfacq_edge_bytes_total"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(registry, "bpfacq_edge_dial_seconds"); n != 1 || err != nil {
		t.Errorf("%d dial histograms, %v", n, err)
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) != 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
}
