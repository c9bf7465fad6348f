package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// redsocks carries the flows, as it would those of an nft REDIRECT: it asks its
// sockets for SO_ORIGINAL_DST. The rule covers the proxy that it connects to,
// and nothing but the protection of edges keeps it from being sent to itself.
func TestRedsocksCanBeTheRelay(t *testing.T) {
	const proxy, listener = edgeAddr + ":3128", "127.0.0.1:12345"
	s := newSite(t)
	s.setProfile(t, variant(t, "3232238336", "0", "3232238591", "4294967295",
		`{"start":3389,"end":3389}`, `{"start":3128,"end":3128}`))
	s.config.Edges.Addresses[sampleEdge] = proxy
	s.config.Relay.ExternalListener = listener
	s.config.Relay.ExternalCgroup = filepath.Join(s.cgroup, "redsocks")
	if err := os.Mkdir(s.config.Relay.ExternalCgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	s.startSquid(t, proxy, "http_port "+proxy)
	testutil.HTTP(t, s.net, webAddr+":80", http.HandlerFunc(web))
	testutil.HTTPS(t, s.net, webAddr+":443", s.authority, []string{webAddr}, http.HandlerFunc(web))
	s.start(t)

	conf := s.settings(t, "redsocks.conf", `
base { log_info = on; log = "stderr"; daemon = off; redirector = iptables; }
redsocks { local_ip = 127.0.0.1; local_port = 12345; ip = %s; port = 3128; type = http-connect; }
`, edgeAddr)
	testutil.Start(t, s.host, s.config.Relay.ExternalCgroup, program(t, "redsocks", "-c", conf))
	testutil.WaitListening(t, s.host, listener)
	before := s.status(t).Counters

	for _, test := range []struct{ url, want string }{
		{"http://" + webAddr + "/", fromWeb(webAddr + ":80")},
		{"https://" + webAddr + "/", fromWeb(webAddr + ":443")},
	} {
		if got, err := s.curl(t, test.url, "--cacert", s.files.Roots); got != test.want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", test.url, got, err, test.want)
		}
	}
	if got, want := s.connect(t, webAddr+":81"), "ENETUNREACH"; got != want {
		t.Errorf("port 81: got %q, want %q", got, want)
	}
	want := map[string]uint64{
		"acquire": 2, "handoff_offered": 2, "handoff_taken": 2,
		"pass_never_acquired": 2, // redsocks' own connections
		"pass_no_match":       1,
	}
	if diff := cmp.Diff(want, counted(before, s.status(t).Counters)); diff != "" {
		t.Errorf("counters:\n%s", diff)
	}
	s.stop(t)
}

// counted returns what was counted in between.
func counted(before, after map[string]uint64) map[string]uint64 {
	difference := make(map[string]uint64)
	for name, n := range after {
		if n != before[name] {
			difference[name] = n - before[name]
		}
	}
	return difference
}
