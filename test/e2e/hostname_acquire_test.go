package e2e

import (
	"os"
	"slices"
	"testing"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/userspace/flow"
)

// refusedErrno is what a connect() gets that the programs refuse.
func refusedErrno() string {
	if loader.Probe().SetRetval {
		return "ECONNREFUSED"
	}
	return "EPERM"
}

func TestNameOfARuleReachesTheEdgeAsAName(t *testing.T) {
	s, r := namesSite(t)
	s.startNamesEdge(t)
	s.start(t)
	s.awaitChannel(t, "up")
	s.wantNames(t,
		buildName+".", firstSynthetic, // and no IPv6 address
		buildName+".:80", "peer "+firstSynthetic+":80 to "+webAddr+":80",
		firstSynthetic, buildName+".",
		"6.6.0.9", "no such host", // a synthetic address without a name
		openName+".", openAddr,
		"absent.open.example.", "no such host",
	)
	f := s.endedFlow(t, firstSynthetic+":80")
	if f.Name != buildName || f.Rule != "corp" || f.State != flow.StateClosed || f.Status != 200 {
		t.Errorf("flow is %+v, want a closed one to %s by rule corp", f, buildName)
	}
	h := s.hostname(t, buildName)
	if !h.Acquired || h.Rule != "corp" || len(h.Synthetic) != 1 || h.Synthetic[0].String() != firstSynthetic ||
		h.Original.String() != buildAddr || h.Queries == 0 || h.PID == 0 || h.Flows != 1 {
		t.Errorf("hostname is %+v", h)
	}
	if h := s.hostname(t, openName); h.Acquired || h.Original.String() != openAddr || len(h.Synthetic) != 0 {
		t.Errorf("hostname of a bypassed name is %+v", h)
	}
	if n := r.count(openName + " A"); n != 1 {
		t.Errorf("resolver was asked %d times for a bypassed name, want once", n)
	}
	d := s.status(t).DNS
	if !d.On || d.Pool.Used != 1 || d.Pool.Capacity != 1<<16-2 || d.Queries["synthetic"] == 0 || d.Queries["forwarded"] == 0 {
		t.Errorf("state of DNS is %+v", d)
	}
	s.stop(t)
	s.wantNames(t, buildName+".", buildAddr)
}

func TestQueriesByTCPAreAnsweredTheSame(t *testing.T) {
	s, r := namesSite(t)
	s.startNamesEdge(t)
	s.start(t)
	s.awaitChannel(t, "up")
	got := s.namesFrom(t, "tcp "+resolverAddr, buildName+".", firstSynthetic, openName+".", "absent.open.example.")
	if want := []string{firstSynthetic, buildName + ".", openAddr, "no such host"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if flows, err := s.control.Flows(t.Context()); err != nil || len(flows.Flows) != 0 {
		t.Errorf("queries are flows: %+v, %v", flows, err)
	}
	if n := r.count(openName + " A"); n != 1 {
		t.Errorf("resolver was asked %d times for a bypassed name, want once", n)
	}
}

func TestNamesHaveIPv6AddressesIfTheConfigurationSaysSo(t *testing.T) {
	s, _ := namesSite(t)
	s.config.FQDN.SyntheticIPv6 = "fd6b:7066:6163::/64"
	s.startNamesEdge(t)
	s.start(t)
	s.awaitChannel(t, "up")
	const synthetic6 = "fd6b:7066:6163::1"
	s.wantNames(t,
		buildName+".", firstSynthetic+" "+synthetic6,
		synthetic6, buildName+".",
	)
	if got, want := s.connect(t, "["+synthetic6+"]:80"), "peer ["+synthetic6+"]:80 to "+webAddr+":80"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if f := s.endedFlow(t, "["+synthetic6+"]:80"); f.Name != buildName {
		t.Errorf("flow is %+v, want one to %s", f, buildName)
	}
	for _, to := range []string{"[" + synthetic6 + "]:8080", "[fd6b:7066:6163::7]:80"} { // no original address, and no name
		if got, want := s.connect(t, to), refusedErrno(); got != want {
			t.Errorf("%s: got %q, want %q", to, got, want)
		}
	}
}

func TestNameIsAcquiredByItsOriginalAddressIfTheConfigurationSaysSo(t *testing.T) {
	s, r := namesSite(t)
	const name = "web.elsewhere.example"
	r.learn(name, "192.168.11.7")
	s.config.FQDN.AlsoMatchOriginalIP = true
	s.startEdge(t, 443, "*:80")
	s.start(t)
	s.awaitChannel(t, "up")
	s.wantNames(t,
		name+".", firstSynthetic,
		openName+".", openAddr,
		ghostName+".", secondSynthetic, // by its name
	)
	if h := s.hostname(t, name); !h.Acquired || h.Rule != sampleRule {
		t.Errorf("hostname is %+v, want rule %s", h, sampleRule)
	}
	e, err := s.control.Explain(t.Context(), "tcp", name+":80")
	if err != nil || e.Verdict != "acquire" || e.Hostname == nil || !e.Hostname.AlsoMatchOriginal {
		t.Errorf("explained as %+v, %v", e, err)
	}
}

func TestNameThatNobodyResolvesIsAcquired(t *testing.T) {
	s, _ := namesSite(t)
	s.startNamesEdge(t)
	s.start(t)
	s.awaitChannel(t, "up")
	s.wantNames(t,
		ghostName+".", firstSynthetic,
		ghostName+".:80", "peer "+firstSynthetic+":80 to "+webAddr+":80",
		ghostName+".:8080", refusedErrno(), // there is no original address
	)
	if f := s.endedFlow(t, firstSynthetic+":80"); f.Name != ghostName {
		t.Errorf("flow is %+v, want one to %s", f, ghostName)
	}
}

func TestPortWithoutARuleGoesToTheOriginalAddress(t *testing.T) {
	s, _ := namesSite(t)
	s.startNamesEdge(t)
	s.start(t)
	got := s.names(t, buildName+".", buildName+".:8080")
	if got[0] != firstSynthetic || got[1] != "peer "+firstSynthetic+":8080 to "+buildAddr+":8080" &&
		got[1] != "peer "+buildAddr+":8080 to "+buildAddr+":8080" {
		t.Errorf("got %q, want the original address", got)
	}
	e, err := s.control.Explain(t.Context(), "tcp", buildName+":8080")
	if err != nil || e.Verdict != "pass" || e.Hostname == nil || !e.Hostname.Acquired || e.Hostname.Original.String() != buildAddr {
		t.Errorf("explained as %+v, %v", e, err)
	}
	e, err = s.control.Explain(t.Context(), "tcp", firstSynthetic+":80")
	if err != nil || e.Verdict != "acquire" || e.Name != buildName || e.Rule == nil || e.Rule.ID != "corp" {
		t.Errorf("synthetic address is explained as %+v, %v", e, err)
	}
}

func TestUnknownSyntheticAddressIsRefused(t *testing.T) {
	s, _ := namesSite(t)
	s.start(t)
	if got, want := s.connect(t, "6.6.77.7:80"), refusedErrno(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	e, err := s.control.Explain(t.Context(), "tcp", "6.6.77.7:80")
	if err != nil || e.Verdict != "block" || e.Reason != "no-name" {
		t.Errorf("explained as %+v, %v", e, err)
	}
	if d := s.status(t).DNS; d.Pool.Used != 0 {
		t.Errorf("%d names have an address", d.Pool.Used)
	}
}

func TestProfileWithoutNamesTakesNoQueries(t *testing.T) {
	s, r := namesSite(t)
	s.setProfile(t, variant(t, `"action":"Tunnel","hardening":"Bypass","matchingCriteria":{"address":{"ips":[],"fqdns":["private`,
		`"action":"Bypass","hardening":"Bypass","matchingCriteria":{"address":{"ips":[],"fqdns":["private`))
	s.start(t)
	s.wantNames(t, buildName+".", buildAddr)
	status := s.status(t)
	if d := status.DNS; d.On || d.Cause == "" || len(d.Queries) != 0 || len(d.Pool.Prefixes) != 0 {
		t.Errorf("state of DNS is %+v, want none", d)
	}
	if n := status.Counters["acquire_query"]; n != 0 || r.count(buildName+" A") != 1 {
		t.Errorf("%d queries were taken", n)
	}
	if _, err := os.Stat(s.config.StateDir + "/synthetic.log"); !os.IsNotExist(err) {
		t.Errorf("log of synthetic addresses: %v, want none", err)
	}
}

func TestAddressesAreAcquiredWithoutAStateFolder(t *testing.T) {
	s, _ := namesSite(t)
	s.config.StateDir = "/proc/nowhere"
	s.startEdge(t, 443, "192.168.11.0/24:80")
	s.start(t)
	if got, want := s.connect(t, webAddr+":80"), greeted(webAddr+":80"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.wantNames(t, buildName+".", buildAddr)
	if got, want := s.connect(t, "6.6.0.1:80"), refusedErrno(); got != want {
		t.Errorf("a synthetic address: got %q, want %q", got, want)
	}
	status := s.status(t)
	if d := status.DNS; d.Pool.LogError == "" {
		t.Errorf("state of DNS is %+v, want one that says what is wrong", d)
	}
	if len(status.Warnings) == 0 {
		t.Error("status has no warning")
	}
}
