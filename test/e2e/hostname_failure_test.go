package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/config"
)

func TestNamesOutliveAKilledAgent(t *testing.T) {
	s, r := namesSite(t)
	s.config.Kernel.Lease = config.Duration(time.Second)
	s.startNamesEdge(t)
	s.start(t)
	s.wantNames(t, ghostName+".", firstSynthetic, buildName+".", secondSynthetic)
	ports := s.status(t).DNS
	kill(t, s.agent)
	await(t, "names as if there were no agent", func() bool { return s.names(t, buildName+".")[0] == buildAddr })
	s.wantNames(t, ghostName+".", "no such host")

	r.stop() // as if the network were not up yet
	s.config.Kernel.Lease = config.Duration(time.Minute)
	s.start(t)
	// Nobody has asked for the name since, and nobody could answer.
	got := s.connect(t, secondSynthetic+":8080")
	if !strings.Contains(got, buildAddr+":8080") {
		t.Errorf("port without a rule, by an address from before the crash: got %q, want it at %s", got, buildAddr)
	}
	s.wantNames(t, buildName+".", secondSynthetic, ghostName+".", firstSynthetic)
	if d := s.status(t).DNS; d.PortIPv4 != ports.PortIPv4 || d.PortIPv6 != ports.PortIPv6 {
		t.Errorf("DNS ports are %d and %d, want the predecessor's %d and %d", d.PortIPv4, d.PortIPv6, ports.PortIPv4, ports.PortIPv6)
	}
	s.awaitChannel(t, "up")
	s.wantNames(t, buildName+".:80", "peer "+secondSynthetic+":80 to "+webAddr+":80")
}

func TestNamesKeepTheirAddressesThroughCrashes(t *testing.T) {
	s, _ := namesSite(t)
	s.config.Kernel.Lease = config.Duration(time.Second)
	s.startNamesEdge(t)
	given, owner := make(map[string]string), make(map[string]string)
	// ask begins to ask for names; what it returns waits for the answers.
	ask := func(names []string) (answered func()) {
		cmd := testutil.ScenarioCommand(t, "names", append([]string{resolverAddr}, names...)...)
		var answers strings.Builder
		cmd.Stdout = &answers
		testutil.Start(t, s.host, s.cgroup, cmd)
		return func() {
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			for i, addr := range strings.Split(strings.TrimSpace(answers.String()), "\n") {
				name := names[i]
				if !strings.HasPrefix(addr, "6.6.") {
					continue
				}
				if was, ok := given[name]; ok && was != addr || owner[addr] != "" && owner[addr] != name {
					t.Errorf("%s is at %s now, and was at %s; that is %s", name, addr, was, owner[addr])
				}
				given[name], owner[addr] = addr, name
			}
		}
	}
	const rounds, some = 2, 300
	names := make([]string, rounds*some)
	for i := range names {
		names[i] = fmt.Sprintf("n%d.corp.example.", i)
	}
	for round := range rounds {
		s.start(t)
		used := s.status(t).DNS.Pool.Used
		answered := ask(names[round*some : (round+1)*some])
		await(t, "names to be assigned", func() bool { return s.status(t).DNS.Pool.Used > used+some/4 })
		kill(t, s.agent) // between an assignment and its answer
		answered()

		cmd := s.command(t)
		testutil.Start(t, s.host, s.cgroup, cmd)
		await(t, "an agent that starts", func() bool { return s.log.count("datapath loaded") == 1 })
		kill(t, cmd) // while it reads the names
	}
	s.start(t)
	before := len(given)
	ask(names)()
	if before < rounds*some/4 || len(given) != len(names) {
		t.Errorf("%d names had addresses before the end, and %d after it; want some of %d, and all", before, len(given), len(names))
	}
}

func TestHardeningDecidesForNamesWithoutAnEdge(t *testing.T) {
	s, _ := namesSite(t)
	s.start(t)
	s.awaitChannel(t, "down")
	s.wantNames(t,
		buildName+".", buildAddr,
		ghostName+".", "no such host",
		vaultName+".", firstSynthetic,
		vaultName+".:80", "ECONNRESET",
	)
	s.startNamesEdge(t)
	s.awaitChannel(t, "up")
	s.wantNames(t, buildName+".", secondSynthetic, vaultName+".", firstSynthetic)
}

func TestReloadChangesTheVerdictOfAName(t *testing.T) {
	s, _ := namesSite(t)
	s.startNamesEdge(t)
	s.start(t)
	s.awaitChannel(t, "up")
	s.wantNames(t, buildName+".", firstSynthetic, ghostName+".", secondSynthetic)

	reload := func(generation uint32) {
		t.Helper()
		if err := s.agent.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		await(t, "the next generation", func() bool { return s.status(t).Generation >= generation })
	}
	// Names below corp.example are bypassed.
	s.setProfile(t, namesProfile(t, `"order":10,"action":"Tunnel"`, `"order":10,"action":"Bypass"`))
	reload(2)
	s.wantNames(t, buildName+".", buildAddr)
	if got := s.connect(t, firstSynthetic+":80"); !strings.HasSuffix(got, " to "+buildAddr+":80") { // from a cache
		t.Errorf("synthetic address of a bypassed name: got %q, want its original address", got)
	}
	if got, want := s.connect(t, secondSynthetic+":80"), refusedErrno(); got != want {
		t.Errorf("synthetic address of a name that has no original one: got %q, want %q", got, want)
	}
	s.setProfile(t, namesProfile(t))
	reload(3)
	s.wantNames(t, buildName+".", firstSynthetic, buildName+".:80", "peer "+firstSynthetic+":80 to "+webAddr+":80")

	// Queries are taken no more.
	s.config.FQDN.Acquire = false
	s.writeConfig(t)
	reload(4)
	s.wantNames(t, buildName+".", buildAddr)
	s.config.FQDN.Acquire = true
	s.writeConfig(t)
	reload(5)
	s.wantNames(t, buildName+".", firstSynthetic)
}

func TestPoolOnARouteIsRejected(t *testing.T) {
	s, _ := namesSite(t)
	s.start(t)
	handle, err := s.host.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	link, err := handle.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	to, err := netlink.ParseIPNet("6.6.128.0/24")
	if err != nil {
		t.Fatal(err)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: to, Scope: netlink.SCOPE_LINK}
	if err := handle.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	_, err = s.control.Apply(t.Context(), nil, "")
	if err == nil || !strings.Contains(err.Error(), "6.6.0.0/16") || !strings.Contains(err.Error(), "route 6.6.128.0/24 dev up0") {
		t.Errorf("profile is applied with %v, want an error that names pool and route", err)
	}
	if err := handle.RouteDel(route); err != nil {
		t.Fatal(err)
	}
	if _, err := s.control.Apply(t.Context(), nil, ""); err != nil {
		t.Errorf("profile is applied with %v without the route", err)
	}
}

func TestPrivateNamesAreAskedThroughTheTunnel(t *testing.T) {
	s, r := namesSite(t)
	private := newNameServer(t, s.net, privateServer+":53", map[string]string{
		privateName: privateAddr, "build.private.example": privateAddr, "mail.private.example": privateAddr,
	})
	s.setProfile(t, namesProfile(t, `.+\\.private\\.example`, `wiki\\.private\\.example`))
	s.start(t)
	s.wantNames(t, "build.private.example.", "no such host") // while the channel is not up
	if n := private.count("build.private.example A"); n != 0 {
		t.Errorf("private server was asked %d times without a channel", n)
	}
	s.startNamesEdge(t)
	s.awaitChannel(t, "up")
	asked := r.count("build.private.example A")
	s.wantNames(t,
		"build.private.example.", privateAddr,
		"absent.private.example.", "no such host",
		"mail.", privateAddr, // a single label, with the suffix
		privateName+".", firstSynthetic, // the answers are subject to acquisition
		privateName+".:80", "peer "+firstSynthetic+":80 to "+webAddr+":80",
		openName+".", openAddr,
	)
	if r.count("build.private.example A") != asked || r.count("mail A") != 0 || r.count("absent.private.example A") != 0 {
		t.Errorf("the host's resolver was asked for private names: %v", r.asked)
	}
	// There is no route to the server but through the edge.
	if got := s.namesFrom(t, privateServer+":53", "build.private.example.", "elsewhere.example."); got[0] != privateAddr || got[1] != "no such host" {
		t.Errorf("private server that is asked directly: got %q", got)
	}
	d := s.status(t).DNS
	if len(d.Private) != 1 || !d.Private[0].Active || d.Private[0].Channel != sampleChannel || d.Queries["private"] == 0 {
		t.Errorf("state of DNS is %+v", d)
	}
}

func TestQueryOfAPersonShowsEachHop(t *testing.T) {
	s, _ := namesSite(t)
	s.startNamesEdge(t)
	s.start(t)
	s.awaitChannel(t, "up")
	trace, err := s.control.DNSQuery(t.Context(), buildName, "", resolverAddr)
	if err != nil || trace.Code != "NOERROR" || len(trace.Records) != 1 || !strings.Contains(trace.Records[0], firstSynthetic) || len(trace.Hops) == 0 {
		t.Errorf("trace is %+v, %v", trace, err)
	}
	trace, err = s.control.DNSQuery(t.Context(), openName, "A", resolverAddr)
	if err != nil || trace.Code != "NOERROR" || len(trace.Records) != 1 || !strings.Contains(trace.Records[0], openAddr) {
		t.Errorf("trace of a bypassed name is %+v, %v", trace, err)
	}
}

func TestRulesBeyondTheRoomOfTheTablesAreObeyed(t *testing.T) {
	s, _ := namesSite(t)
	const names = 100 // each with a row of its own in the verdict table
	var rules strings.Builder
	questions := make([]string, names)
	for i := range questions {
		fmt.Fprintf(&rules, `,{"id":"own-%d","channelId":"%s","order":%d,"action":"Tunnel","hardening":"Block","matchingCriteria":`+
			`{"address":{"ips":[],"fqdns":["n%d\\.corp\\.example"]},"ports":[{"start":%d,"end":%d}],"protocol":"Tcp"}}`,
			i, sampleChannel, 20+i, i, 1000+i, 1000+i)
		questions[i] = fmt.Sprintf("n%d.corp.example.", i)
	}
	s.setProfile(t, namesProfile(t, `],"privateDnsRules":[`, rules.String()+`],"privateDnsRules":[`))
	s.startNamesEdge(t)
	s.start(t)
	s.awaitChannel(t, "up")

	seen := make(map[string]bool)
	for i, addr := range s.names(t, questions...) {
		if !strings.HasPrefix(addr, "6.6.") || seen[addr] {
			t.Fatalf("%s is at %q, want a synthetic address of its own", questions[i], addr)
		}
		seen[addr] = true
	}
	status := s.status(t)
	if status.Generation < 2 || status.DNS.Pool.Used != names {
		t.Errorf("generation %d has %d names, want %d in a table that was made anew", status.Generation, status.DNS.Pool.Used, names)
	}
	last := questions[names-1]
	s.wantNames(t,
		last+":80", "ECONNRESET", // the edge knows no such name
		last+fmt.Sprintf(":%d", 1000+names-1), "ECONNRESET",
		last+fmt.Sprintf(":%d", 1000+names-2), refusedErrno(), // another name's port, and no original address
	)
}
