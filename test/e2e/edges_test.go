package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/flow"
)

// The edges of others, each as its own documentation has it, with the site's
// certificate on the site's address. They are less than ours in one respect:
// none of them carries a half-close in both directions.
func TestEdgesOfOthersCarryFlows(t *testing.T) {
	tests := []struct {
		name     string
		start    func(*site, testing.TB)
		protocol string
	}{
		{"nghttpx", (*site).startNghttpx, "h2"},
		{"haproxy", (*site).startHAProxy, "h2"},
		{"squid", (*site).startSquidEdge, "http/1.1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newSite(t)
			s.config.Relay.Drain = config.Duration(time.Second) // nghttpx leaves a flow behind that is closed by halves
			test.start(s, t)
			testutil.HTTP(t, s.net, webAddr+":80", http.HandlerFunc(web))
			testutil.Echo(t, s.net, "192.168.11.1:443")
			testutil.Respond(t, s.net, "0.0.0.0:22", greet)
			s.start(t)
			s.checkEdge(t)
			s.stop(t) // and with it the log is whole
			if over2 := s.log.count("protocol=h2") > 0; over2 != (test.protocol == "h2") {
				t.Errorf("HTTP/2 in use: %t, want the protocol to be %s", over2, test.protocol)
			}
		})
	}
}

func (s *site) checkEdge(t *testing.T) {
	t.Helper()
	if got, err := s.curl(t, "http://"+webAddr+"/"); got != fromWeb(webAddr+":80") || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, fromWeb(webAddr+":80"))
	}
	const size = 8 << 20
	got := testutil.Child(t, s.host, s.cgroup, "exchange", fmt.Sprintf("bulk=%d", size), "192.168.11.1:443")
	if want := fmt.Sprintf("%d bytes came back", size); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for i := 1; i <= 5; i++ {
		to := fmt.Sprintf("192.168.11.%d:22", i)
		if got := s.connect(t, to); got != greeted(to) {
			t.Errorf("got %q, want %q", got, greeted(to))
		}
	}
	for _, refused := range []struct {
		to     string
		status int
	}{
		{forbiddenAddr + ":22", http.StatusForbidden},
		{"192.168.11.1:80", http.StatusServiceUnavailable}, // nobody listens
	} {
		if got, want := s.connect(t, refused.to), "ECONNRESET"; got != want {
			t.Errorf("%s: got %q, want %q", refused.to, got, want)
		}
		if f := s.endedFlow(t, refused.to); f.State != flow.StateRefused || f.Status != refused.status {
			t.Errorf("flow to %s is %s with status %d, want refused with %d", refused.to, f.State, f.Status, refused.status)
		}
	}
	// A probe has seconds, which a busy machine may need for the handshakes of squid: there is another.
	await(t, "the diagnostic host's 200 OK", func() bool { return s.status(t).Channels[0].Diagnostic == "200 OK" })
	if ch := s.awaitChannel(t, "up"); ch.Edge != sampleEdge+":443" {
		t.Errorf("channel has edge %q, want %q", ch.Edge, sampleEdge+":443")
	}
}

func (s *site) startSquidEdge(t testing.TB) {
	s.startSquid(t, edgeAddr+":443",
		fmt.Sprintf("https_port %s:443 tls-cert=%s tls-key=%s", edgeAddr, s.files.Certificate, s.files.Key))
}

// behind is where squid carries on what another edge was asked for: neither
// HAProxy nor nghttpx connects to a destination by itself.
const behind = "127.0.0.1:3128"

func (s *site) startHAProxy(t testing.TB) {
	s.startSquid(t, behind, "http_port "+behind)
	conf := s.settings(t, "haproxy.cfg", `
global
    maxconn 2000
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
frontend edge
    bind %s:443 ssl crt %s alpn h2,http/1.1
    default_backend forward
backend forward
    server squid %s
`, edgeAddr, s.files.Certificate, behind)
	s.startListening(t, program(t, "haproxy", "-db", "-f", conf), edgeAddr+":443")
}

func (s *site) startNghttpx(t testing.TB) {
	s.startSquid(t, behind, "http_port "+behind)
	s.startListening(t, program(t, "nghttpx", "--conf=/dev/null", "--single-process", "--http2-proxy", "--no-ocsp",
		"--frontend="+edgeAddr+",443", "--backend=127.0.0.1,3128", "--log-level=WARN",
		"--accesslog-file=/dev/null", "--errorlog-file=/dev/stderr",
		s.files.Key, s.files.Certificate), edgeAddr+":443")
}
