package resolver

import (
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// fetchers fetch http://NAME/ and print the answer and the peer.
func (b *bed) fetchers() map[string]func(testing.TB, string) *exec.Cmd {
	return map[string]func(testing.TB, string) *exec.Cmd{
		"curl": func(t testing.TB, name string) *exec.Cmd {
			return b.program(t, "curl", "--silent", "--show-error", "--max-time", "60", "--noproxy", "*",
				"--write-out", " peer %{remote_ip}", "http://"+name+"/")
		},
		"python": func(t testing.TB, name string) *exec.Cmd {
			return b.program(t, "python3", testdata(t, "fetch.py"), name)
		},
		"node": func(t testing.TB, name string) *exec.Cmd { return b.node(t, "fetch.js", name) },
	}
}

// fetched is where a fetcher of web ended, and at which address it believes to be.
func fetched(text string) (host, at, peer string) {
	var word string
	fmt.Sscanf(text, "%s at %s %s %s", &host, &at, &word, &peer)
	return host, at, peer
}

// Upstream has an IPv6 address for the name, which programs prefer and which the
// edge does not lead to.
func TestProgramsReachByNameWhatTheEdgeKnows(t *testing.T) {
	b := newBed(t)
	b.startDnsmasq(t)
	b.startEdge(t)
	usual := []string{webAddr, "[" + webAddr6 + "]"}
	for program, command := range b.fetchers() {
		text, err := b.run(t, command(t, webName))
		host, at, peer := fetched(text)
		if err != nil || host != webName || !slices.Contains(usual, strings.TrimSuffix(at, ":80")) || !strings.Contains(at, peer) {
			t.Errorf("%s without the agent: %q, %v, want web at %q", program, text, err, usual)
		}
		if text, err := b.run(t, command(t, nowhere)); err == nil {
			t.Errorf("%s without the agent: %q from a name that does not exist", program, text)
		}
	}

	b.start(t)
	for program, command := range b.fetchers() {
		for name, want := range map[string]string{
			webName: "192.168.11.200:80", nowhere: "192.168.11.201:80", safeName: "192.168.11.202:80",
		} {
			text, err := b.run(t, command(t, name))
			if host, at, peer := fetched(text); err != nil || host != name || at != want || !inPool(peer) {
				t.Errorf("%s: %s gives %q, %v, want web at %s", program, name, text, err, want)
			}
		}
		text, err := b.run(t, command(t, openName))
		if host, at, peer := fetched(text); err != nil || host != openName || at != openAddr+":80" || peer != openAddr {
			t.Errorf("%s: %s gives %q, %v, want web at %s", program, openName, text, err, openAddr)
		}
	}
}

// No rule speaks of port 8080. The flow goes where upstream says, if it says
// anything.
func TestOtherPortsOfAnAcquiredNameGoToItsOriginalAddress(t *testing.T) {
	b := newBed(t)
	b.startDnsmasq(t)
	b.startEdge(t)
	testutil.HTTP(t, b.net, "[::]:8080", http.HandlerFunc(web))
	b.start(t)
	curl := b.fetchers()["curl"]
	for name, want := range map[string]string{webName: webAddr, safeName: safeAddr} {
		text, err := b.run(t, curl(t, name+":8080"))
		if _, at, peer := fetched(text); err != nil || at != want+":8080" || !inPool(peer) {
			t.Errorf("%s: %q, %v, want web at %s", name, text, err, want)
		}
	}
	if text, err := b.run(t, curl(t, nowhere+":8080")); err == nil {
		t.Errorf("%s without an original address: %q", nowhere, text)
	}
}
