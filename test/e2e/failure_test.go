package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/flow"
)

func TestChannelThatIsDownResetsUntilItsEdgeIsBack(t *testing.T) {
	s := newSite(t)
	edge := s.startEdge(t, 443, "192.168.11.0/24:22")
	testutil.Respond(t, s.net, "192.168.11.1:22", greet)
	s.start(t)
	if got, want := s.connect(t, "192.168.11.1:22"), greeted("192.168.11.1:22"); got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	kill(t, edge)

	if got, want := s.connect(t, "192.168.11.1:22"), "ECONNRESET"; got != want {
		t.Errorf("while the edge is down: got %q, want %q", got, want)
	}
	if f := s.endedFlow(t, "192.168.11.1:22"); f.State != flow.StateFailed || f.Status != 0 {
		t.Errorf("flow is %s with status %d, want failed without one", f.State, f.Status)
	}
	if ch := s.awaitChannel(t, "down"); !strings.Contains(ch.Cause, "dial") {
		t.Errorf("channel is down for %q, want a cause that says dial", ch.Cause)
	}

	s.startEdge(t, 443, "192.168.11.0/24:22")
	s.awaitChannel(t, "up") // by itself, without a flow that asks for it
	if got, want := s.connect(t, "192.168.11.1:22"), greeted("192.168.11.1:22"); got != want {
		t.Errorf("when the edge is back: got %q, want %q", got, want)
	}
	s.stop(t)
}

func TestEdgeOfAnotherAuthorityIsNotTrusted(t *testing.T) {
	s := newSite(t)
	s.config.Edges.CAFile = testutil.NewAuthority(t).WriteFiles(t, t.TempDir(), sampleEdge).Roots
	s.startEdge(t, 443, "192.168.11.0/24:22")
	s.start(t)
	if ch := s.awaitChannel(t, "down"); !strings.Contains(ch.Cause, "tls: ") {
		t.Errorf("channel is down for %q, want a cause that says tls", ch.Cause)
	}
	if got, want := s.connect(t, "192.168.11.1:22"), "ECONNRESET"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.stop(t)
}

// viaEdge returns the edge that a new flow took.
func (s *site) viaEdge(t *testing.T) string {
	t.Helper()
	if got := s.connect(t, "192.168.11.1:22"); got != greeted("192.168.11.1:22") {
		return got
	}
	return s.endedFlow(t, "192.168.11.1:22").Edge
}

func TestSecondaryEdgeServesWhileAllPrimariesFail(t *testing.T) {
	s := newSite(t)
	edgeOf := func(name string, port int) string {
		return fmt.Sprintf(`{"edgeAddress":%q,"edgePort":%d,"isSecure":true}`, name, port)
	}
	s.setProfile(t, variant(t,
		edgeOf(sampleEdge, 443), edgeOf(sampleEdge, 443)+","+edgeOf(secondEdge, 444),
		`"secondaryEdges":[]`, `"secondaryEdges":[`+edgeOf(thirdEdge, 445)+`]`,
		`"edsSettings":{"pollingIntervalInSeconds":10}`, `"edsSettings":{"pollingIntervalInSeconds":1}`))
	const allow = "192.168.11.0/24:22"
	first, second := s.startEdge(t, 443, allow), s.startEdge(t, 444, allow)
	s.startEdge(t, 445, allow)
	testutil.Respond(t, s.net, "192.168.11.1:22", greet)
	s.start(t)

	used := make(map[string]int)
	for range 6 {
		used[s.viaEdge(t)]++
	}
	if used[sampleEdge+":443"] == 0 || used[secondEdge+":444"] == 0 || len(used) != 2 {
		t.Errorf("edges used: %v, want both primaries alone", used)
	}
	kill(t, first)
	for range 3 { // no flow fails while another edge can carry it
		if got, want := s.viaEdge(t), secondEdge+":444"; got != want {
			t.Errorf("with the first edge down: flow goes by %q, want %q", got, want)
		}
	}
	kill(t, second)
	for range 3 {
		if got, want := s.viaEdge(t), thirdEdge+":445"; got != want {
			t.Errorf("with both primaries down: flow goes by %q, want %q", got, want)
		}
	}
	s.startEdge(t, 443, allow)
	await(t, "a flow by the primary edge that is back", func() bool { return s.viaEdge(t) == sampleEdge+":443" })
	if got, want := s.viaEdge(t), sampleEdge+":443"; got != want {
		t.Errorf("with a primary back: flow goes by %q, want %q", got, want)
	}
	s.stop(t)
}

// blockRule is a rule for 192.168.12.0/24 whose flows may never go direct.
const blockRule = `{"id":"block","channelId":"` + sampleChannel + `","order":3,"action":"Tunnel","hardening":"Block",` +
	`"matchingCriteria":{"address":{"ips":[{"start":3232238592,"end":3232238847}]},"protocol":"Tcp"}}`

func TestKilledAgentFailsAsEachRuleSays(t *testing.T) {
	s := newSite(t)
	s.config.Kernel.Lease = config.Default().Kernel.Lease
	s.setProfile(t, variant(t, `],"privateDnsRules"`, ","+blockRule+`],"privateDnsRules"`))
	s.startEdge(t, 443, "192.168.0.0/16:*")
	testutil.Respond(t, s.net, "0.0.0.0:22", greet)
	testutil.HTTP(t, s.net, webAddr+":80", http.HandlerFunc(web))
	s.start(t)
	const open, closed = "192.168.11.1:22", "192.168.12.1:22"
	for _, to := range []string{open, closed} {
		if got, want := s.connect(t, to), greeted(to); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	kill(t, s.agent)

	await(t, "the end of the lease", func() bool {
		got := s.connect(t, open)
		if got != "ENETUNREACH" && got != "ECONNREFUSED" { // refused by the host: nobody listens
			t.Errorf("without an agent: got %q", got)
		}
		return got == "ENETUNREACH"
	})
	before := s.counter(t, "block")
	want := "EPERM"
	if loader.Probe().SetRetval {
		want = "ECONNREFUSED"
	}
	if got := s.connect(t, closed); got != want {
		t.Errorf("hardening Block without an agent: got %q, want %q", got, want)
	}
	if n := s.counter(t, "block") - before; n != 1 {
		t.Errorf("%d connects blocked, want 1", n)
	}

	s.start(t)
	await(t, "the next agent to say that it takes over", func() bool { return s.log.count("took_over=true") == 1 })
	if got, err := s.curl(t, "http://"+webAddr+"/"); got != fromWeb(webAddr+":80") || err != nil {
		t.Errorf("with the next agent: got %q, %v", got, err)
	}
	if got, want := s.connect(t, closed), greeted(closed); got != want {
		t.Errorf("with the next agent: got %q, want %q", got, want)
	}
	s.stop(t)
}

// counter reads one of the datapath's counters from its pins, as those do who
// look after an agent that is dead.
func (s *site) counter(t testing.TB, name string) uint64 {
	t.Helper()
	m, err := maps.Open(loader.MapsDir(s.pins))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	sums, err := m.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for c, n := range sums {
		if c.String() == name {
			return n
		}
	}
	t.Fatalf("no counter is called %q", name)
	return 0
}

func TestStoppedAgentLeavesNothing(t *testing.T) {
	s := newSite(t)
	s.config.Relay.Drain = config.Duration(time.Second)
	s.setProfile(t, variant(t, `],"privateDnsRules"`, ","+blockRule+`],"privateDnsRules"`))
	s.startEdge(t, 443, "192.168.0.0/16:*")
	testutil.Respond(t, s.net, "0.0.0.0:22", greet)
	s.start(t)
	quiet := testutil.ScenarioCommand(t, "exchange", "listen", "192.168.11.1:22")
	quiet.Stdout = &transcript{}
	testutil.Start(t, s.host, s.cgroup, quiet)
	heard := quiet.Stdout.(*transcript)
	await(t, "a live flow", func() bool { return heard.count("192.168.11.1:22\n") == 1 })

	s.stop(t) // checks the pins
	if err := quiet.Wait(); err != nil {
		t.Error(err)
	}
	// It was given the time to end, did not, and was reset.
	if heard.count("192.168.11.1:22\nECONNRESET") != 1 {
		t.Errorf("flow that was live at the stop heard %q, want a greeting and a reset", heard.text.String())
	}
	for _, to := range []string{"192.168.11.1:22", "192.168.12.1:22"} {
		if got, want := s.connect(t, to), "ENETUNREACH"; got != want {
			t.Errorf("%s: got %q, want %q", to, got, want)
		}
	}
	if hooks, err := loader.Hooks(s.pins); len(hooks) != 0 || err != nil {
		t.Errorf("hooks %v, %v, want none", hooks, err)
	}
	if _, err := s.control.Status(t.Context()); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("control socket gives %v, want nobody there", err)
	}
	left, err := os.ReadDir(s.config.StateDir)
	if err != nil || len(left) != 2 || left[0].Name() != "profile.json" || left[1].Name() != "synthetic.log" {
		t.Errorf("state folder holds %v, %v, want the last good profile and the names' addresses", left, err)
	}
}
