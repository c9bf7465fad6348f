package dns

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	wire "github.com/miekg/dns"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// newPrivateRig has a public server, and a private one behind a channel, known
// to clients as 6.6.255.254.
func newPrivateRig(t *testing.T, public, private *resolver, change func(*rig, *Options)) *rig {
	return newRig(t, public.at, func(r *rig, o *Options) {
		r.private.suffix, r.private.server = ".corp.example", netip.MustParseAddrPort("6.6.255.254:53")
		r.upstream.through = func(netip.AddrPort) netip.AddrPort { return private.at }
		if change != nil {
			change(r, o)
		}
	})
}

func TestPrivateNamesAreAskedThroughTheChannel(t *testing.T) {
	public := newResolver(t, zone("www.example. 5 IN A 192.0.2.1"))
	private := newResolver(t, zone(
		"host.corp.example. 5 IN CNAME other.corp.example.", "host.corp.example. 5 IN A 10.1.2.3", "www.example. 5 IN A 10.9.9.9",
	))
	for _, test := range []struct {
		name, asked string
		server      string
		down        bool
		rcode       int
		answers     []string
		outcome     Outcome
	}{
		{
			name: "suffix", asked: "Host.Corp.Example.", outcome: OutcomePrivate,
			answers: []string{"host.corp.example.\t5\tIN\tCNAME\tother.corp.example.", "host.corp.example.\t5\tIN\tA\t10.1.2.3"},
		},
		{
			name: "single label", asked: "hOst.", outcome: OutcomePrivate,
			answers: []string{"hOst.\t5\tIN\tCNAME\tother.corp.example.", "hOst.\t5\tIN\tA\t10.1.2.3"},
		},
		{name: "single label that is not there", asked: "none.", rcode: wire.RcodeNameError, outcome: OutcomePrivate},
		{name: "another name", asked: "www.example.", answers: []string{"www.example.\t5\tIN\tA\t192.0.2.1"}, outcome: OutcomeForwarded},
		{name: "channel is down", asked: "host.corp.example.", down: true, rcode: wire.RcodeNameError, outcome: OutcomeForwarded},
		{
			name: "asked directly", server: "6.6.255.254:53", asked: "www.example.",
			answers: []string{"www.example.\t5\tIN\tA\t10.9.9.9"}, outcome: OutcomePrivate,
		},
		{
			name: "asked directly, channel is down", server: "6.6.255.254:53", asked: "www.example.", down: true,
			rcode: wire.RcodeServerFailure, outcome: OutcomeUnreachable,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newPrivateRig(t, public, private, func(r *rig, _ *Options) { r.private.down = test.down })
			if test.server != "" {
				r.origin.query.Store(&flow.Query{Server: netip.MustParseAddrPort(test.server), PID: 1, HasAsker: true})
			}
			q := new(wire.Msg).SetQuestion(test.asked, wire.TypeA)
			m := r.query(q)
			if m.Id != q.Id || m.Rcode != test.rcode || m.Question[0].Name != test.asked || !slices.Equal(records(m.Answer), test.answers) {
				t.Errorf("UDP got %v", m)
			}
			conn := r.session(r.by())
			send(t, conn, pack(t, q))
			m = unpack(t, receive(t, conn))
			if m.Id != q.Id || m.Rcode != test.rcode || m.Question[0].Name != test.asked || !slices.Equal(records(m.Answer), test.answers) {
				t.Errorf("TCP got %v", m)
			}
			r.wantCounts(map[Outcome]uint64{test.outcome: 2})
			tunnels := int64(0)
			if test.outcome == OutcomePrivate {
				tunnels = 1 // for both
			}
			if n := r.upstream.tunnels.Load(); n != tunnels {
				t.Errorf("%d tunnels, want %d", n, tunnels)
			}
		})
	}
}

func TestPrivateNameMayBeAcquired(t *testing.T) {
	public, private := newResolver(t, zone()), newResolver(t, zone("build.corp.example. 5 IN A 10.1.2.3"))
	r := newPrivateRig(t, public, private, nil)
	r.names.acquire(acquiredName, acquired())
	for _, asked := range []string{acquiredName + ".", "BUILD."} {
		m := r.query(new(wire.Msg).SetQuestion(asked, wire.TypeA))
		if want := []string{asked + "\t30\tIN\tA\t6.6.0.1"}; !slices.Equal(records(m.Answer), want) {
			t.Errorf("got %v", m)
		}
	}
	want := []Original{{Known: true, Addr: netip.MustParseAddr("10.1.2.3")}}
	if got := r.names.originals(acquiredName); !slices.Equal(got, want) {
		t.Errorf("originals %v", got)
	}
	if n := public.queries.Load(); n != 0 {
		t.Errorf("the public server was asked %d times", n)
	}
}

func TestServerThatARuleCoversIsAskedThroughTheChannel(t *testing.T) {
	upstream := newResolver(t, zone("a.example. 5 IN A 192.0.2.7"))
	for _, test := range []struct {
		name    string
		route   Route
		broken  error
		rcode   int
		outcome Outcome
	}{
		{"carried", RouteTunnel, nil, 0, OutcomeTunneled},
		{"refused by the edge", RouteTunnel, errors.New("403"), wire.RcodeServerFailure, OutcomeUnreachable},
		{"blocked", RouteBlocked, nil, wire.RcodeServerFailure, OutcomeBlocked},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, upstream.at, func(r *rig, _ *Options) { r.upstream.route, r.upstream.broken = test.route, test.broken })
			if m := r.query(new(wire.Msg).SetQuestion("a.example.", wire.TypeA)); m.Rcode != test.rcode || len(m.Answer) == 0 != (test.rcode != 0) {
				t.Errorf("got %v", m)
			}
			r.wantCounts(map[Outcome]uint64{test.outcome: 1})
			if n := r.upstream.dials.Load(); n != 0 {
				t.Errorf("%d direct connections", n)
			}
		})
	}
}

func TestOneConnectionCarriesManyQueries(t *testing.T) {
	public := newResolver(t, zone())
	var late sync.Mutex
	var queue []func()
	private := newResolver(t, func(w wire.ResponseWriter, q *wire.Msg) {
		late.Lock()
		defer late.Unlock()
		m := new(wire.Msg).SetReply(q)
		m.Answer = []wire.RR{&wire.TXT{Hdr: header(q.Question[0].Name, wire.TypeTXT), Txt: []string{q.Question[0].Name}}}
		if queue = append(queue, func() { w.WriteMsg(m) }); len(queue) == 50 {
			for _, answer := range slices.Backward(queue) { // in another order
				answer()
			}
		}
	})
	r := newPrivateRig(t, public, private, nil)
	var clients sync.WaitGroup
	for i := range 50 {
		clients.Go(func() {
			name := strings.Repeat("x", i+1) + ".corp.example."
			q := new(wire.Msg).SetQuestion(name, wire.TypeTXT)
			q.Id = 7 // of all
			if m := r.query(q); m.Id != 7 || len(m.Answer) != 1 || m.Answer[0].(*wire.TXT).Txt[0] != name {
				t.Errorf("%s got %v", name, m)
			}
		})
	}
	clients.Wait()
	if n := r.upstream.tunnels.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	r.wantCounts(map[Outcome]uint64{OutcomePrivate: 50})
}

func TestConnectionThatTheServerEndedIsReplaced(t *testing.T) {
	public := newResolver(t, zone())
	answer := zone("host.corp.example. 5 IN A 10.1.2.3")
	var closing atomic.Bool
	private := newResolver(t, func(w wire.ResponseWriter, q *wire.Msg) {
		if closing.CompareAndSwap(true, false) {
			w.Close()
			return
		}
		answer(w, q)
	})
	r := newPrivateRig(t, public, private, nil)
	for range 3 {
		if m := r.query(new(wire.Msg).SetQuestion("host.corp.example.", wire.TypeA)); len(m.Answer) != 1 {
			t.Errorf("got %v", m)
		}
		closing.Store(true)
	}
	if n := r.upstream.tunnels.Load(); n != 3 {
		t.Errorf("%d connections", n)
	}
	r.Flush()
	closing.Store(false)
	if m := r.query(new(wire.Msg).SetQuestion("host.corp.example.", wire.TypeA)); len(m.Answer) != 1 {
		t.Errorf("got %v", m)
	}
	if n := r.upstream.tunnels.Load(); n != 4 {
		t.Errorf("%d connections after a flush", n)
	}
}

func TestLongPrivateAnswerIsCutForUDP(t *testing.T) {
	var texts []string
	for range 40 {
		texts = append(texts, "host.corp.example. 5 IN TXT "+strings.Repeat("x", 100))
	}
	public, private := newResolver(t, zone()), newResolver(t, zone(texts...))
	for _, test := range []struct {
		size      uint16
		truncated bool
	}{{0, true}, {1232, true}, {8000, false}} {
		r := newPrivateRig(t, public, private, nil)
		q := new(wire.Msg).SetQuestion("host.corp.example.", wire.TypeTXT)
		if test.size > 0 {
			q.SetEdns0(test.size, false)
		}
		answer := r.ask(pack(t, q))
		m := unpack(t, answer)
		if m.Truncated != test.truncated || len(answer) > int(max(test.size, wire.MinMsgSize)) || m.Id != q.Id {
			t.Errorf("of %d got %d bytes: %v", test.size, len(answer), m.MsgHdr)
		}
		if test.truncated {
			r.wantCounts(map[Outcome]uint64{OutcomePrivate: 1, OutcomeTruncated: 1})
		}
	}
}

func TestConnectionsToServersBehindChannelsAreBounded(t *testing.T) {
	upstream := newResolver(t, zone("a.example. 5 IN A 192.0.2.7"))
	r := newRig(t, upstream.at, func(r *rig, o *Options) {
		r.upstream.route, o.Limits.Pipes = RouteTunnel, 3
		r.upstream.through = func(netip.AddrPort) netip.AddrPort { return upstream.at }
	})
	for i := range byte(10) {
		server := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, i}), 53)
		r.origin.query.Store(&flow.Query{Server: server, PID: 1, HasAsker: true})
		if m := r.query(new(wire.Msg).SetQuestion("a.example.", wire.TypeA)); len(m.Answer) != 1 {
			t.Errorf("got %v", m)
		}
		r.pipes.mu.Lock()
		if n := len(r.pipes.open); n > 3 {
			t.Errorf("%d connections", n)
		}
		r.pipes.mu.Unlock()
	}
	if n := len(r.Status().Servers); n != 10 {
		t.Errorf("%d servers", n)
	}
}
