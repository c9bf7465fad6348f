package dns

import (
	"bytes"
	"fmt"
	"net/netip"
	"regexp"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"
)

func TestOriginalIsTheFirstAddressUpstream(t *testing.T) {
	dual := acquired()
	dual.IPv6 = true
	addr := netip.MustParseAddr
	for _, test := range []struct {
		name  string
		zone  []string
		kind  uint16
		rcode int
		want  Original
	}{
		{"address", []string{"@ 5 IN A 192.0.2.7", "@ 5 IN A 192.0.2.8"}, wire.TypeA, 0, Original{Known: true, Addr: addr("192.0.2.7")}},
		{"behind an alias", []string{"@ 5 IN CNAME b.example.", "@ 5 IN A 192.0.2.9"}, wire.TypeA, 0, Original{Known: true, Addr: addr("192.0.2.9")}},
		{"IPv6", []string{"@ 5 IN AAAA 2001:db8::7"}, wire.TypeAAAA, 0, Original{Known: true, IPv6: true, Addr: addr("2001:db8::7")}},
		{"IPv4 in disguise", []string{"@ 5 IN AAAA ::ffff:192.0.2.7"}, wire.TypeAAAA, 0, Original{Known: true, IPv6: true}},
		{"no such name", nil, wire.TypeA, 0, Original{Known: true}},
		{"no address", []string{"@ 5 IN TXT x"}, wire.TypeA, 0, Original{Known: true}},
		{"of a pool", []string{"@ 5 IN A 6.6.3.4"}, wire.TypeA, 0, Original{Known: true}},
		{"failure", nil, wire.TypeA, wire.RcodeServerFailure, Original{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var texts []string
			for _, text := range test.zone {
				texts = append(texts, strings.Replace(text, "@", acquiredName+".", 1))
			}
			answer := zone(texts...)
			if test.rcode != 0 {
				answer = func(w wire.ResponseWriter, q *wire.Msg) { w.WriteMsg(new(wire.Msg).SetRcode(q, test.rcode)) }
			}
			r := newRig(t, newResolver(t, answer).at, nil)
			r.names.acquire(acquiredName, dual)
			if m := r.query(new(wire.Msg).SetQuestion(acquiredName+".", test.kind)); len(m.Answer) != 1 {
				t.Errorf("got %v", m)
			}
			if got := r.names.originals(acquiredName); !slices.Equal(got, []Original{test.want}) {
				t.Errorf("originals %+v, want %+v", got, test.want)
			}
			want := Sighting{
				Name: acquiredName, Type: test.kind, By: r.by(), Judgement: dual, Original: test.want.Addr,
				Address: Address{IPv4: addr("6.6.0.1"), IPv6: addr("fd00::1")},
			}
			waitFor(t, func() bool { return slices.Equal(r.observer.sightings(), []Sighting{want}) },
				func() any { return r.observer.sightings() })
		})
	}
}

func TestTruncatedOriginalIsAskedForByTCP(t *testing.T) {
	full := zone("build.corp.example. 5 IN A 192.0.2.7")
	upstream := newResolver(t, func(w wire.ResponseWriter, q *wire.Msg) {
		if w.RemoteAddr().Network() == "udp" {
			m := new(wire.Msg).SetReply(q)
			m.Truncated = true
			w.WriteMsg(m)
			return
		}
		full(w, q)
	})
	r := newRig(t, upstream.at, nil)
	r.names.acquire(acquiredName, acquired())
	r.query(new(wire.Msg).SetQuestion(acquiredName+".", wire.TypeA))
	want := []Original{{Known: true, Addr: netip.MustParseAddr("192.0.2.7")}}
	if got := r.names.originals(acquiredName); !slices.Equal(got, want) {
		t.Errorf("originals %+v", got)
	}
}

func TestKnownNameIsAnsweredAtOnceAndRefreshedOnce(t *testing.T) {
	asked := make(chan struct{}, 100)
	answer := make(chan struct{})
	full := zone("build.corp.example. 5 IN A 192.0.2.7")
	upstream := newResolver(t, func(w wire.ResponseWriter, q *wire.Msg) {
		asked <- struct{}{}
		<-answer
		full(w, q)
	})
	r := newRig(t, upstream.at, nil)
	r.names.acquire(acquiredName, acquired())
	r.names.give(acquiredName, Address{IPv4: netip.MustParseAddr("6.6.0.9")})
	for range 5 {
		m := r.query(new(wire.Msg).SetQuestion(acquiredName+".", wire.TypeA))
		if got := m.Answer[0].(*wire.A).A.String(); got != "6.6.0.9" {
			t.Errorf("answer %s", got)
		}
	}
	<-asked
	close(answer)
	want := []Original{{Known: true, Addr: netip.MustParseAddr("192.0.2.7")}}
	waitFor(t, func() bool { return slices.Equal(r.names.originals(acquiredName), want) },
		func() any { return r.names.originals(acquiredName) })
	r.query(new(wire.Msg).SetQuestion(acquiredName+".", wire.TypeA)) // fresh: no look-up
	r.wantCounts(map[Outcome]uint64{OutcomeSynthetic: 6, OutcomeRefreshed: 1})
	if n := r.names.uses(acquiredName); n != 6 {
		t.Errorf("answered %d times", n)
	}
	r.Flush()
	r.query(new(wire.Msg).SetQuestion(acquiredName+".", wire.TypeA))
	r.wantCounts(map[Outcome]uint64{OutcomeSynthetic: 7, OutcomeRefreshed: 2})
}

// waitingForLookUps counts queries that have joined a look-up. One that has not may
// come too late for it.
func waitingForLookUps() int {
	var stacks bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&stacks, 2); err != nil {
		return -1
	}
	return len(regexp.MustCompile(`\[select.*\]:\n\S+\(\*Server\)\.lookUp\(`).FindAll(stacks.Bytes(), -1))
}

func TestNewNameIsLookedUpOnceForAll(t *testing.T) {
	hold := make(chan struct{})
	full := zone("build.corp.example. 5 IN A 192.0.2.7")
	upstream := newResolver(t, func(w wire.ResponseWriter, q *wire.Msg) {
		<-hold
		full(w, q)
	})
	r := newRig(t, upstream.at, nil)
	r.names.acquire(acquiredName, acquired())
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			if m := r.query(new(wire.Msg).SetQuestion(acquiredName+".", wire.TypeA)); len(m.Answer) != 1 {
				t.Errorf("got %v", m)
			}
		})
	}
	waitFor(t, func() bool { return waitingForLookUps() == 20 }, func() any { return waitingForLookUps() })
	close(hold)
	clients.Wait()
	if n := upstream.queries.Load(); n != 1 {
		t.Errorf("upstream was asked %d times", n)
	}
	if n := len(r.names.originals(acquiredName)); n != 1 {
		t.Errorf("assigned %d times", n)
	}
}

func TestNewNameDoesNotWaitLongForUpstream(t *testing.T) {
	hold := make(chan struct{})
	full := zone("build.corp.example. 5 IN A 192.0.2.7")
	upstream := newResolver(t, func(w wire.ResponseWriter, q *wire.Msg) {
		<-hold
		full(w, q)
	})
	r := newRig(t, upstream.at, func(_ *rig, o *Options) { o.Limits.Patience = 20 * time.Millisecond })
	r.names.acquire(acquiredName, acquired())
	if m := r.query(new(wire.Msg).SetQuestion(acquiredName+".", wire.TypeA)); len(m.Answer) != 1 {
		t.Errorf("got %v", m)
	}
	close(hold) // the look-up goes on, and finds the original
	want := []Original{{}, {Known: true, Addr: netip.MustParseAddr("192.0.2.7")}}
	waitFor(t, func() bool { return slices.Equal(r.names.originals(acquiredName), want) },
		func() any { return r.names.originals(acquiredName) })
}

func TestLookupsAreBounded(t *testing.T) {
	upstream := newResolver(t, zone())
	r := newRig(t, upstream.at, func(_ *rig, o *Options) { o.Limits.Lookups, o.Limits.Refreshes = 2, 1 })
	hold := make(chan struct{})
	r.names.hold = hold
	var clients sync.WaitGroup
	for i := range 2 {
		name := fmt.Sprintf("n%d.example", i)
		r.names.acquire(name, acquired())
		clients.Go(func() { r.query(new(wire.Msg).SetQuestion(name+".", wire.TypeA)) })
	}
	waitFor(t, func() bool { return r.Status().Lookups == 2 }, func() any { return r.Status() })
	r.names.acquire("n2.example", acquired())
	clients.Go(func() { r.query(new(wire.Msg).SetQuestion("n2.example.", wire.TypeA)) })
	waitFor(t, func() bool { return r.counted()[OutcomeLookupLimited] == 1 }, func() any { return r.counted() })
	if n := r.Status().Lookups; n != 2 {
		t.Errorf("%d look-ups", n)
	}
	close(hold)
	clients.Wait() // the third has its address, and no original yet
	if got := r.names.originals("n2.example"); !slices.Equal(got, []Original{{}}) {
		t.Errorf("originals %v", got)
	}
	r.wantCounts(map[Outcome]uint64{OutcomeSynthetic: 3, OutcomeLookupLimited: 1})
}

func TestFreshNamesAreForgottenInTimeAndInNumber(t *testing.T) {
	now := time.Unix(1000, 0)
	var l lookups
	if !l.stale(subject{name: "a"}, now) || l.stale(subject{name: "a"}, now) {
		t.Error("a name is fresh once it was looked up")
	}
	if l.stale(subject{name: "a"}, now.Add(freshFor)) {
		t.Error("a name does not stay fresh")
	}
	if !l.stale(subject{name: "a"}, now.Add(5*freshFor)) {
		t.Error("a name stays fresh for ever")
	}
	for i := range 5 * freshSize {
		l.stale(subject{name: fmt.Sprint(i)}, now.Add(5*freshFor))
	}
	if n := len(l.fresh) + len(l.older); n > 2*freshSize {
		t.Errorf("%d names", n)
	}
}
