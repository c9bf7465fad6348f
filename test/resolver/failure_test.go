package resolver

import (
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/bpfacq/bpfacq/userspace/profile"
)

// Nobody waits for the kernel to notice: the sockets of a dead agent are gone at
// once, while its lease is still fresh.
func TestResolutionGoesOnWhenTheAgentIsKilled(t *testing.T) {
	b := newBed(t)
	b.startDnsmasq(t)
	b.startEdge(t)
	b.start(t)
	if got := b.stubs(t)[0].addresses(t, b, webName); len(got) != 1 || !inPool(got[0]) {
		t.Fatalf("%s has %q, want one synthetic address", webName, got)
	}
	b.kill(t)
	begun := time.Now()
	for _, way := range []string{wayConnected, waySendTo, wayTCP} {
		for _, server := range []string{dnsmasqAddr, dnsmasqAddr6} {
			answer := b.ask(t, way, server, time.Second, query(plainName, "A"))[0]
			if !strings.HasSuffix(answer, hex.EncodeToString(netip.MustParseAddr(plainAddr).AsSlice())) {
				t.Errorf("%s over %s: %s %v after the kill, want the answer of the server",
					server, way, answer, time.Since(begun).Round(time.Millisecond))
			}
		}
	}
	checkUsual(t, b, b.stubs(t))
}

// An application keeps an address for as long as it likes.
func TestSyntheticAddressesOutliveACrash(t *testing.T) {
	b := newBed(t)
	b.startDnsmasq(t)
	b.startEdge(t)
	b.start(t)
	curl := b.fetchers()["curl"]
	addrs := make(map[string]string)
	want := map[string]string{webName: "192.168.11.200:80", nowhere: "192.168.11.201:80", safeName: "192.168.11.202:80"}
	for name := range want {
		got := b.stubs(t)[0].addresses(t, b, name)
		if len(got) != 1 || !inPool(got[0]) {
			t.Fatalf("%s has %q, want one synthetic address", name, got)
		}
		addrs[name] = got[0]
	}

	b.kill(t)
	b.checkOrphans(t, addrs)

	b.start(t)
	for name, at := range want {
		text, err := b.run(t, curl(t, addrs[name]))
		if _, got, peer := fetched(text); err != nil || got != at || peer != addrs[name] {
			t.Errorf("%s, which was %s: %q, %v, want web at %s", addrs[name], name, text, err, at)
		}
	}
	// Addresses that nobody was ever told.
	for _, addr := range []string{"6.6.0.0", "6.6.200.200", "6.6.255.255"} {
		for _, network := range []string{"tcp", "udp"} {
			got, err := b.run(t, b.scenario(t, "refused", network, addr+":80"))
			if err != nil || got != "ECONNREFUSED" && got != "EPERM" {
				t.Errorf("%s over %s: %q, %v, want a connection that is refused", addr, network, got, err)
			}
		}
	}
}

// refusedScenario connects to the address of its arguments, a network and an
// address, and prints the errno of connect() or of the first datagram.
func refusedScenario(args []string, stdout io.Writer) error {
	conn, err := net.DialTimeout(args[0], args[1], 10*time.Second)
	if err == nil {
		defer conn.Close()
		_, err = conn.Write([]byte("hello"))
	}
	text, err := describe(nil, err)
	fmt.Fprint(stdout, text)
	return err
}

// checkOrphans connects to synthetic addresses without an agent: hardening decides,
// once the kernel has noticed.
func (b *bed) checkOrphans(t *testing.T, addrs map[string]string) {
	t.Helper()
	curl := b.fetchers()["curl"]
	await(t, "web at its original address", func() bool {
		text, err := b.run(t, curl(t, addrs[webName]))
		_, at, _ := fetched(text)
		return err == nil && at == webAddr+":80"
	})
	for _, name := range []string{safeName, nowhere} {
		if text, err := b.run(t, curl(t, addrs[name])); err == nil {
			t.Errorf("%s, which must not go direct or has nowhere to go: %q", name, text)
		}
	}
}

// took is how long one of the host's commands takes, whatever it says.
func (b *bed) took(t *testing.T, name string, args ...string) time.Duration {
	t.Helper()
	begun := time.Now()
	if text, err := b.run(t, b.program(t, name, args...)); err == nil {
		t.Errorf("%s %v says %q of a name that nobody resolves", name, args, text)
	}
	return time.Since(begun)
}

func TestServerThatDoesNotAnswerTakesAsLongAsWithoutTheAgent(t *testing.T) {
	b := newBed(t)
	b.silence(t)
	b.startEdge(t)
	b.writeEtc(t, "resolv.conf", "nameserver "+silentAddr+"\noptions timeout:2 attempts:2\n")
	commands := [][]string{
		{"dig", "+tries=2", "+time=2", plainName, "A"},
		{"dig", "+tcp", "+tries=1", "+time=3", plainName, "A"},
		{"getent", "ahosts", plainName},
		{"getent", "ahosts", openName},
	}
	var without []time.Duration
	for _, command := range commands {
		without = append(without, b.took(t, command[0], command[1:]...))
	}
	b.start(t)
	for i, command := range commands {
		with := b.took(t, command[0], command[1:]...)
		t.Logf("%v: %v without the agent, %v with it", command, without[i], with)
		if ratio := with.Seconds() / without[i].Seconds(); ratio < 0.8 || ratio > 1.2 {
			t.Errorf("%v takes %v, without the agent %v", command, with, without[i])
		}
	}
	// A name that a rule speaks of needs no server.
	if got := b.stubs(t)[0].addresses(t, b, webName); len(got) != 1 || !inPool(got[0]) {
		t.Errorf("%s has %q, want one synthetic address", webName, got)
	}
}

// Nobody listens at the first server's address. The network says so at once, and
// most stubs go on to the next.
func TestServerThatIsNotThereTakesNoLongerThanWithoutTheAgent(t *testing.T) {
	b := newBed(t)
	b.startDnsmasq(t)
	b.startEdge(t)
	b.writeEtc(t, "resolv.conf", "nameserver "+edgeAddr+"\nnameserver "+dnsmasqAddr+"\noptions timeout:3\n")
	// The agent says SERVFAIL in the network's stead, which two take for the answer.
	stubs := slices.DeleteFunc(b.stubs(t), func(s stub) bool { return s.name == "dig" || s.name == "c-ares" })
	look := func() (took []time.Duration) {
		for _, s := range stubs {
			begun := time.Now()
			if got := s.addresses(t, b, plainName); !slices.Equal(got, s.of(plainAddr, plainAddr6)) {
				t.Errorf("%s: %q", s.name, got)
			}
			took = append(took, time.Since(begun))
		}
		return took
	}
	without := look()
	b.start(t)
	for i, with := range look() {
		t.Logf("%s: %v without the agent, %v with it", stubs[i].name, without[i], with)
		if with > without[i]+2*time.Second {
			t.Errorf("%s takes %v, without the agent %v", stubs[i].name, with, without[i])
		}
	}
}

// The edges of the real profile are found as usual, and only the diagnostic host
// is acquired.
func TestSampleProfileLeavesTheNamesOfItsEdgesAlone(t *testing.T) {
	b := newBed(t)
	b.startDnsmasq(t)
	b.startEdge(t)
	b.setProfile(t, []byte(strings.ReplaceAll(profile.Sample, sampleEdge, edgeName)))
	b.start(t)
	names := map[string]string{
		"xxxxxxxx.private.client.globalsecureaccess.microsoft.com": "203.0.113.30",
		"aps.globalsecureaccess.microsoft.com":                     "203.0.113.31",
		plainName:                                                  plainAddr,
		webName:                                                    webAddr,
	}
	for name, want := range names {
		answer := b.dig(t, "@"+dnsmasqAddr, name, "A")
		if len(answer.answer) != 1 || answer.answer[0].(*dns.A).A.String() != want || answer.answer[0].Header().Ttl != 300 {
			t.Errorf("%s: %+v, want %s as the server has it", name, answer, want)
		}
	}
	answer := b.dig(t, "@"+dnsmasqAddr, "private.edgediagnostic.globalsecureaccess.microsoft.com", "A")
	if len(answer.answer) != 1 || !inPool(answer.answer[0].(*dns.A).A.String()) {
		t.Errorf("diagnostic host: %+v, want a synthetic address", answer)
	}
}

// sampleEdge is the edge of the sample profile.
const sampleEdge = "xxxxxxxx-xxxx-xxxx-xxxx-92d6d4889ec8.private.client.globalsecureaccess.microsoft.com"
