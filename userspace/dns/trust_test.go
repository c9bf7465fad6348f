package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	wire "github.com/miekg/dns"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

func TestServerOfAnybodyDoesNotSayWhereANameLeads(t *testing.T) {
	r := newRig(t, newResolver(t, zone(acquiredName+". 5 IN A 192.0.2.66")).at, nil)
	r.names.acquire(acquiredName, acquired())
	r.upstream.distrust.Store(true)
	for range 2 {
		if m := r.query(new(wire.Msg).SetQuestion(acquiredName+".", wire.TypeA)); len(m.Answer) != 1 {
			t.Errorf("got %v", m)
		}
	}
	for _, original := range r.names.originals(acquiredName) {
		if original != (Original{Untrusted: true}) {
			t.Errorf("original is %+v, want none", original)
		}
	}
	r.upstream.distrust.Store(false) // of another application
	r.query(new(wire.Msg).SetQuestion(acquiredName+".", wire.TypeA))
	want := Original{Known: true, Addr: netip.MustParseAddr("192.0.2.66")}
	waitFor(t, func() bool { return slices.Contains(r.names.originals(acquiredName), want) },
		func() any { return r.names.originals(acquiredName) })
}

func TestQueriesAboutTopLevelDomainsAreNotForPrivateServers(t *testing.T) {
	public := newResolver(t, zone("com. 5 IN NS a.gtld.example.", "com. 5 IN A 192.0.2.9", "edge.example. 5 IN A 192.0.2.10"))
	private := newResolver(t, zone())
	r := newPrivateRig(t, public, private, nil)
	recursive := new(wire.Msg).SetQuestion("com.", wire.TypeNS)
	iterative := new(wire.Msg).SetQuestion("com.", wire.TypeA)
	iterative.RecursionDesired = false
	for _, q := range []*wire.Msg{recursive, iterative} {
		if m := r.query(q); m.Rcode != wire.RcodeSuccess || len(m.Answer) != 1 {
			t.Errorf("%v got %v", q.Question, m)
		}
	}
	r.wantCounts(map[Outcome]uint64{OutcomeForwarded: 2})
	if n := r.upstream.tunnels.Load(); n != 0 {
		t.Errorf("the channel was used %d times", n)
	}
}

func TestNamesOfEdgesNeedNoChannel(t *testing.T) {
	r := newRig(t, newResolver(t, zone("edge.example. 5 IN A 192.0.2.10")).at, func(r *rig, _ *Options) { r.upstream.route = RouteBlocked })
	if m := r.query(new(wire.Msg).SetQuestion("edge.example.", wire.TypeA)); len(m.Answer) != 1 {
		t.Errorf("got %v", m)
	}
	r.wantCounts(map[Outcome]uint64{OutcomeForwarded: 1})
}

func TestNobodyTakesTheShareOfOthers(t *testing.T) {
	q := quota{all: 16, each: 4}
	taken := 0
	for pid := range uint32(100) {
		for range 4 {
			if q.take(clientOf(flow.Query{HasAsker: true, PID: pid, UID: 1000}, netip.Addr{})) == excessNone {
				taken++
			}
		}
	}
	if taken != 8 {
		t.Errorf("a user of many processes has %d of 16", taken)
	}
	for _, uid := range []uint32{0, 1001} {
		other := clientOf(flow.Query{HasAsker: true, PID: 1000 + uid, UID: uid}, netip.Addr{})
		if got := q.take(other); got != excessNone {
			t.Errorf("user %d met bound %d", uid, got)
		}
		q.release(other)
	}
	for pid := range uint32(2) {
		for range 4 {
			q.release(clientOf(flow.Query{HasAsker: true, PID: pid, UID: 1000}, netip.Addr{}))
		}
	}
	if got := fmt.Sprint(q.total, len(q.clients), len(q.users)); got != "0 0 0" {
		t.Errorf("left over: %s", got)
	}
}
