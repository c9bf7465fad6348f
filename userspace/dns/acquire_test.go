package dns

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	wire "github.com/miekg/dns"
)

const acquiredName = "build.corp.example"

func acquired() Judgement {
	return Judgement{Acquired: true, IfUnresolved: true, Rule: "r1", Channel: "private"}
}

func TestAcquiredNameIsAnsweredHere(t *testing.T) {
	dual := acquired()
	dual.IPv6 = true
	for _, test := range []struct {
		name      string
		judgement Judgement
		kind      uint16
		answer    []string
	}{
		{"address", acquired(), wire.TypeA, []string{"build.corp.example.\t30\tIN\tA\t6.6.0.1"}},
		{"no IPv6", acquired(), wire.TypeAAAA, nil},
		{"IPv6", dual, wire.TypeAAAA, []string{"build.corp.example.\t30\tIN\tAAAA\tfd00::1"}},
		{"no HTTPS", dual, wire.TypeHTTPS, nil},
		{"no SVCB", acquired(), wire.TypeSVCB, nil},
		{"anything", acquired(), wire.TypeANY, []string{"build.corp.example.\t30\tIN\tA\t6.6.0.1"}},
		{"anything of both", dual, wire.TypeANY, []string{
			"build.corp.example.\t30\tIN\tA\t6.6.0.1", "build.corp.example.\t30\tIN\tAAAA\tfd00::1",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			upstream := newResolver(t, zone(
				"build.corp.example. 5 IN CNAME other.example.", "build.corp.example. 5 IN A 192.0.2.7",
				"build.corp.example. 5 IN AAAA 2001:db8::7", "build.corp.example. 5 IN HTTPS 1 . ipv4hint=192.0.2.7",
			))
			r := newRig(t, upstream.at, nil)
			r.names.acquire(acquiredName, test.judgement)
			m := r.query(new(wire.Msg).SetQuestion(acquiredName+".", test.kind))
			if m.Rcode != wire.RcodeSuccess || !slices.Equal(records(m.Answer), test.answer) || len(m.Extra) != 0 || m.Truncated || !m.RecursionAvailable {
				t.Errorf("got %v", m)
			}
			if denied := len(m.Ns) == 1; denied != (test.answer == nil) {
				t.Errorf("authority section is %v", m.Ns)
			} else if denied && (m.Ns[0].Header().Ttl > 30 || m.Ns[0].(*wire.SOA).Minttl > 30) {
				t.Errorf("denial lasts: %v", m.Ns)
			}
			r.wantCounts(map[Outcome]uint64{OutcomeSynthetic: 1})
		})
	}
}

func TestSyntheticAnswerKeepsWhatTheClientSaid(t *testing.T) {
	upstream := newResolver(t, zone())
	r := newRig(t, upstream.at, nil)
	r.names.acquire(acquiredName, acquired())
	for _, test := range []struct {
		name     string
		change   func(*wire.Msg)
		opt, do  bool
		cd       bool
		recurses bool
		rcode    int
	}{
		{name: "plain", change: func(*wire.Msg) {}, recurses: true},
		{name: "no recursion", change: func(m *wire.Msg) { m.RecursionDesired = false }},
		{name: "checking disabled", change: func(m *wire.Msg) { m.CheckingDisabled = true }, cd: true, recurses: true},
		{name: "authentic data wanted", change: func(m *wire.Msg) { m.AuthenticatedData = true }, recurses: true},
		{name: "EDNS", change: func(m *wire.Msg) { m.SetEdns0(512, false) }, opt: true, recurses: true},
		{name: "DNSSEC", change: func(m *wire.Msg) { m.SetEdns0(65535, true) }, opt: true, do: true, recurses: true},
		{
			name: "EDNS of the future", change: func(m *wire.Msg) { m.SetEdns0(1232, false).IsEdns0().SetVersion(1) },
			opt: true, recurses: true, rcode: wire.RcodeBadVers,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := new(wire.Msg).SetQuestion("bUiLd.CORP.example.", wire.TypeA)
			test.change(q)
			m := r.query(q)
			if m.Rcode != test.rcode || m.Question[0].Name != "bUiLd.CORP.example." || m.Id != q.Id {
				t.Errorf("got %v", m)
			}
			if want := test.rcode == 0; want != (len(m.Answer) == 1) || want && m.Answer[0].Header().Name != "bUiLd.CORP.example." {
				t.Errorf("answers are %v", m.Answer)
			}
			if m.AuthenticatedData || m.Authoritative || m.CheckingDisabled != test.cd || m.RecursionDesired != test.recurses {
				t.Errorf("header is %v", m.MsgHdr)
			}
			opt := m.IsEdns0()
			if (opt != nil) != test.opt || opt != nil && (opt.Do() != test.do || opt.UDPSize() != answerSize || len(opt.Option) != 0) {
				t.Errorf("OPT is %v", opt)
			}
		})
	}
}

func TestQuestionOfAcquiredNameIsEchoedByteForByte(t *testing.T) {
	upstream := newResolver(t, zone())
	r := newRig(t, upstream.at, nil)
	name := `a\032b\046c\255.example`
	r.names.acquire(name, acquired())
	question := "07 61 20 42 2e 63 ff 00 " // wrong on purpose: a label that ends with NUL
	query := unhex(t, plainHeader+question+"0765 7861 4d70 6c65 00 0001 0001")
	r.names.acquire(`a\032b\046c\255\000.example`, acquired())
	answer := r.ask(query)
	if !bytes.Equal(answer[headerSize:len(query)], query[headerSize:]) {
		t.Errorf("question is % x, want % x", answer[headerSize:len(query)], query[headerSize:])
	}
	want := unhex(t, "c00c 0001 0001 0000 001e 0004 0606 0001")
	if !bytes.Equal(answer[len(query):], want) {
		t.Errorf("answer is % x, want % x", answer[len(query):], want)
	}
}

func TestOtherTypesOfAcquiredNameAreForwarded(t *testing.T) {
	upstream := newResolver(t, zone("build.corp.example. 5 IN MX 1 mail.example.", "build.corp.example. 5 IN TXT x"))
	r := newRig(t, upstream.at, nil)
	r.names.acquire(acquiredName, acquired())
	for _, kind := range []uint16{wire.TypeMX, wire.TypeTXT} {
		if m := r.query(new(wire.Msg).SetQuestion(acquiredName+".", kind)); len(m.Answer) != 1 || m.Answer[0].Header().Rrtype != kind {
			t.Errorf("got %v", m)
		}
	}
	chaos := new(wire.Msg).SetQuestion(acquiredName+".", wire.TypeA)
	chaos.Question[0].Qclass = wire.ClassCHAOS
	r.query(chaos)
	r.wantCounts(map[Outcome]uint64{OutcomeForwarded: 3})
	if got := r.names.originals(acquiredName); len(got) != 0 {
		t.Errorf("assigned for %v", got)
	}
}

func TestUnresolvedNameIsAsItsRuleWants(t *testing.T) {
	for _, test := range []struct {
		name         string
		ifUnresolved bool
		zone         []string
		rcode        int
		answers      int
		outcome      Outcome
	}{
		{"wanted", true, nil, wire.RcodeSuccess, 1, OutcomeSynthetic},
		{"not wanted", false, nil, wire.RcodeNameError, 0, OutcomeForwarded},
		{"resolved", false, []string{"build.corp.example. 5 IN A 192.0.2.7"}, wire.RcodeSuccess, 1, OutcomeSynthetic},
		{"resolved by IPv6 only", false, []string{"build.corp.example. 5 IN AAAA 2001:db8::7"}, wire.RcodeSuccess, 1, OutcomeSynthetic},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, newResolver(t, zone(test.zone...)).at, nil)
			j := acquired()
			j.IfUnresolved = test.ifUnresolved
			r.names.acquire(acquiredName, j)
			m := r.query(new(wire.Msg).SetQuestion(acquiredName+".", wire.TypeA))
			if m.Rcode != test.rcode || len(m.Answer) != test.answers {
				t.Errorf("got %v", m)
			}
			m = r.query(new(wire.Msg).SetQuestion(acquiredName+".", wire.TypeAAAA))
			if m.Rcode != test.rcode || len(m.Answer) != 0 {
				t.Errorf("AAAA got %v", m)
			}
			if assigned := len(r.names.originals(acquiredName)) > 0; assigned != (test.outcome == OutcomeSynthetic) {
				t.Errorf("assigned: %v", assigned)
			}
			waitFor(t, func() bool {
				counts := r.counted()
				delete(counts, OutcomeRefreshed)
				return len(counts) == 1 && counts[test.outcome] == 2
			}, func() any { return r.counted() })
		})
	}
}

func TestNameIsJudgedByItsOriginal(t *testing.T) {
	upstream := newResolver(t, zone("in.example. 5 IN A 10.1.2.3", "out.example. 5 IN A 192.0.2.7"))
	r := newRig(t, upstream.at, nil)
	r.names.byAddr = netip.MustParsePrefix("10.0.0.0/8").Contains
	r.names.acquire("in.example", Judgement{Undecided: true, IfUnresolved: true})
	r.names.acquire("out.example", Judgement{Undecided: true, IfUnresolved: true})
	if m := r.query(new(wire.Msg).SetQuestion("in.example.", wire.TypeA)); len(m.Answer) != 1 || m.Answer[0].(*wire.A).A.String() != "6.6.0.1" {
		t.Errorf("got %v", m)
	}
	if m := r.query(new(wire.Msg).SetQuestion("in.example.", wire.TypeAAAA)); len(m.Answer) != 0 || m.Rcode != 0 {
		t.Errorf("AAAA got %v", m)
	}
	if m := r.query(new(wire.Msg).SetQuestion("out.example.", wire.TypeA)); len(m.Answer) != 1 || m.Answer[0].(*wire.A).A.String() != "192.0.2.7" {
		t.Errorf("got %v", m)
	}
	r.wantCounts(map[Outcome]uint64{OutcomeSynthetic: 2, OutcomeForwarded: 1})
}

func TestBypassedNameIsForwarded(t *testing.T) {
	r := newRig(t, newResolver(t, zone("build.corp.example. 5 IN A 192.0.2.7")).at, nil)
	r.names.acquire(acquiredName, Judgement{Bypassed: true})
	if m := r.query(new(wire.Msg).SetQuestion(acquiredName+".", wire.TypeA)); m.Answer[0].(*wire.A).A.String() != "192.0.2.7" {
		t.Errorf("got %v", m)
	}
	r.wantCounts(map[Outcome]uint64{OutcomeForwarded: 1})
}

func TestAnswerWaitsUntilTheAddressIsRecorded(t *testing.T) {
	r := newRig(t, newResolver(t, zone()).at, nil)
	r.names.hold = make(chan struct{})
	r.names.acquire(acquiredName, acquired())
	client := r.client()
	client.Write(pack(t, new(wire.Msg).SetQuestion(acquiredName+".", wire.TypeA)))
	waitFor(t, func() bool { return r.Status().Lookups == 1 }, func() any { return r.Status() })
	client.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := client.Read(make([]byte, 100)); err == nil {
		t.Fatalf("%d bytes came before the address was recorded", n)
	}
	close(r.names.hold)
	client.SetReadDeadline(time.Now().Add(patience))
	if _, err := client.Read(make([]byte, 100)); err != nil {
		t.Error(err)
	}
}

func TestNameWithoutAddressIsSERVFAIL(t *testing.T) {
	for _, test := range []struct {
		name    string
		err     error
		outcome Outcome
		log     string
	}{
		{"pool is full", fmt.Errorf("assign: %w", ErrFull), OutcomePoolFull, "pool of synthetic addresses is full"},
		{"disk is", errors.New("disk is full"), OutcomeUnassigned, "disk is full"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log bytes.Buffer
			r := newRig(t, newResolver(t, zone("build.corp.example. 5 IN A 192.0.2.7")).at, func(_ *rig, o *Options) {
				o.Log = slog.New(slog.NewTextHandler(&log, nil))
			})
			r.names.fail = test.err
			r.names.acquire(acquiredName, acquired())
			for range 3 {
				m := r.query(new(wire.Msg).SetQuestion(acquiredName+".", wire.TypeA).SetEdns0(1232, false))
				if m.Rcode != wire.RcodeServerFailure || len(m.Answer) != 0 || len(m.IsEdns0().Option) != 1 {
					t.Errorf("got %v", m)
				}
			}
			r.wantCounts(map[Outcome]uint64{test.outcome: 3})
			r.stop()
			if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), test.log) {
				t.Errorf("log has %d lines:\n%s", n, &log)
			}
			if len(r.observer.sightings()) != 0 {
				t.Errorf("seen %v", r.observer.sightings())
			}
		})
	}
}

func TestSyntheticAddressHasItsName(t *testing.T) {
	upstream := newResolver(t, zone("7.2.0.192.in-addr.arpa. 5 IN PTR real.example."))
	r := newRig(t, upstream.at, nil)
	r.names.give(acquiredName, Address{IPv4: netip.MustParseAddr("6.6.0.1"), IPv6: netip.MustParseAddr("fd00::1")})
	for _, test := range []struct {
		name, addr string
		kind       uint16
		rcode      int
		answer     string
		outcome    Outcome
	}{
		{"IPv4", "6.6.0.1", wire.TypePTR, 0, "1.0.6.6.in-addr.arpa.\t30\tIN\tPTR\tbuild.corp.example.", OutcomeSynthetic},
		{"anything", "6.6.0.1", wire.TypeANY, 0, "1.0.6.6.in-addr.arpa.\t30\tIN\tPTR\tbuild.corp.example.", OutcomeSynthetic},
		{"nobody's", "6.6.9.9", wire.TypePTR, wire.RcodeNameError, "", OutcomeSynthetic},
		{
			"IPv6", "fd00::1", wire.TypePTR, 0,
			"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.\t30\tIN\tPTR\tbuild.corp.example.", OutcomeSynthetic,
		},
		{"of the network", "192.0.2.7", wire.TypePTR, 0, "7.2.0.192.in-addr.arpa.\t5\tIN\tPTR\treal.example.", OutcomeForwarded},
		{"another type", "6.6.0.1", wire.TypeTXT, wire.RcodeNameError, "", OutcomeForwarded},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := r.counted()
			reverse, err := wire.ReverseAddr(test.addr)
			if err != nil {
				t.Fatal(err)
			}
			m := r.query(new(wire.Msg).SetQuestion(reverse, test.kind))
			if got := strings.Join(records(m.Answer), "\n"); m.Rcode != test.rcode || got != test.answer {
				t.Errorf("got %v, want %q", m, test.answer)
			}
			before[test.outcome]++
			r.wantCounts(before)
		})
	}
}
