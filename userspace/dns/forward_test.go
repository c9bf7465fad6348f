package dns

import (
	"bytes"
	"context"
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Questions of wire bytes: a.example A, as various clients write it.
const (
	plainHeader   = "1234 0100 0001 0000 0000 0000 "
	plainQuestion = "0161 0765 7861 6d70 6c65 00 0001 0001 "
)

func TestForwardedBytesAreLeftAsTheyAre(t *testing.T) {
	for _, test := range []struct{ name, query, answer string }{
		{"plain", plainHeader + plainQuestion, "1234 8180 0001 0001 0000 0000 " + plainQuestion + "c00c 0001 0001 0000 0e10 0004 c000 0207"},
		{
			"EDNS with DO, a cookie and an unknown option",
			"1234 0130 0001 0000 0000 0001 " + plainQuestion + "00 0029 1000 0000 8000 0014 000a 0008 0102030405060708 fde9 0004 deadbeef",
			"1234 81a0 0001 0001 0000 0001 " + plainQuestion + "c00c 0001 0001 0000 0001 0004 c000 0207 00 0029 04d0 0000 8000 0000",
		},
		{
			"letters of both cases, kept",
			"1234 0100 0001 0000 0000 0000 0141 0745 5861 4d70 4c65 00 0001 0001",
			"1234 8180 0001 0000 0000 0000 0141 0745 5861 4d70 4c65 00 0001 0001",
		},
		{
			"letters of both cases, that the server lowers",
			"1234 0100 0001 0000 0000 0000 0141 0745 5861 4d70 4c65 00 0001 0001",
			"1234 8180 0001 0000 0000 0000 " + plainQuestion,
		},
		{
			"unknown type and class, truncated",
			"1234 0100 0001 0000 0000 0000 0161 0765 7861 6d70 6c65 00 ff78 00fe",
			"1234 8380 0001 0000 0000 0000 0161 0765 7861 6d70 6c65 00 ff78 00fe",
		},
		{"error without a question", plainHeader + plainQuestion, "1234 8184 0000 0000 0000 0000"},
		{"no question, for a cookie", "1234 0100 0000 0000 0000 0001 00 0029 1000 0000 0000 0000", "1234 8180 0000 0000 0000 0001 00 0029 1000 0000 0000 0000"},
		{"dynamic update", "1234 2800 0001 0000 0000 0000 0161 0765 7861 6d70 6c65 00 0006 0001", "1234 a805 0000 0000 0000 0000"},
		{"records that only look like some", plainHeader + plainQuestion, "1234 8180 0001 ffff 0000 0000 " + plainQuestion + "c00c c00c c00c ffff"},
		{"trailing bytes", plainHeader + plainQuestion + "0000 ffff", "1234 8180 0001 0000 0000 0000 " + plainQuestion + "abcd"},
	} {
		t.Run(test.name, func(t *testing.T) {
			query, answer := unhex(t, test.query), unhex(t, test.answer)
			server, got := rawServer(t, func([]byte) [][]byte { return [][]byte{answer} })
			r := newRig(t, server, nil)
			if back := r.ask(query); !bytes.Equal(back, answer) {
				t.Errorf("client got\n% x, want\n% x", back, answer)
			}
			if sent := <-got; !bytes.Equal(sent, query) {
				t.Errorf("server got\n% x, want\n% x", sent, query)
			}
			r.wantCounts(map[Outcome]uint64{OutcomeForwarded: 1})
		})
	}
}

func TestWhatIsNoAnswerToTheQueryIsIgnored(t *testing.T) {
	query := unhex(t, plainHeader+plainQuestion)
	answer := unhex(t, "1234 8180 0001 0000 0000 0000 "+plainQuestion)
	server, _ := rawServer(t, func([]byte) [][]byte {
		return [][]byte{
			unhex(t, "1235 8180 0001 0000 0000 0000 "+plainQuestion),                        // another number
			unhex(t, "1234 0180 0001 0000 0000 0000 "+plainQuestion),                        // no response
			unhex(t, "1234 9180 0001 0000 0000 0000 "+plainQuestion),                        // another opcode
			unhex(t, "1234 8180 0001 0000 0000 0000 0162 0765 7861 6d70 6c65 00 0001 0001"), // another name
			unhex(t, "1234 8180 0001 0000 0000 0000 0161 0765 7861 6d70 6c65 00 001c 0001"), // another type
			unhex(t, "1234 8180 0000 0000 0000 0000"),                                       // nothing that is an error
			unhex(t, "1234 81"), // no header
			{}, answer,
		}
	})
	r := newRig(t, server, nil)
	if back := r.ask(query); !bytes.Equal(back, answer) {
		t.Errorf("client got % x", back)
	}
	r.wantCounts(map[Outcome]uint64{OutcomeForwarded: 1, OutcomeStray: 8})
}

func TestAnAnswerFromElsewhereDoesNotArrive(t *testing.T) {
	query := unhex(t, plainHeader+plainQuestion)
	answer := unhex(t, "1234 8180 0001 0000 0000 0000 "+plainQuestion)
	other, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := newRig(t, conn.LocalAddr().(*net.UDPAddr).AddrPort(), nil)
	client := r.client()
	client.Write(query)
	buffer := make([]byte, 100)
	_, from, err := conn.ReadFrom(buffer)
	if err != nil {
		t.Fatal(err)
	}
	forged := slices.Clone(answer)
	forged[3] = 0x85 // REFUSED
	other.WriteTo(forged, from)
	conn.WriteTo(answer, from)
	n, err := client.Read(buffer)
	if err != nil || !bytes.Equal(buffer[:n], answer) {
		t.Errorf("client got % x, %v", buffer[:n], err)
	}
	r.wantCounts(map[Outcome]uint64{OutcomeForwarded: 1})
}

func TestNoAnswerUpstreamIsNoAnswer(t *testing.T) {
	server, _ := rawServer(t, func([]byte) [][]byte { return nil })
	r := newRig(t, server, func(_ *rig, o *Options) { o.Limits.Timeout = 50 * time.Millisecond })
	client := r.client()
	client.Write(unhex(t, plainHeader+plainQuestion))
	r.wantCounts(map[Outcome]uint64{OutcomeTimeout: 1})
	client.SetReadDeadline(time.Now())
	if n, err := client.Read(make([]byte, 100)); !expired(err) {
		t.Errorf("client got %d bytes, %v", n, err)
	}
	status := r.Status().Servers
	if len(status) != 1 || status[0].Timeouts != 1 || status[0].Answers != 0 || status[0].Failures != 0 || status[0].Server != server {
		t.Errorf("servers are %+v", status)
	}
}

func TestServerThatItsHostRefusesIsSERVFAIL(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	conn.Close()
	r := newRig(t, server, nil)
	m := r.query(new(wire.Msg).SetQuestion("A.example.", wire.TypeA).SetEdns0(4096, true))
	if m.Rcode != wire.RcodeServerFailure || len(m.Answer) != 0 || m.Question[0].Name != "A.example." {
		t.Errorf("got %v", m)
	}
	opt := m.IsEdns0()
	if opt == nil || !opt.Do() || len(opt.Option) != 1 || opt.Option[0].(*wire.EDNS0_EDE).InfoCode != wire.ExtendedErrorCodeNetworkError {
		t.Errorf("OPT is %v", opt)
	}
	m = r.query(new(wire.Msg).SetQuestion("A.example.", wire.TypeA))
	if m.Rcode != wire.RcodeServerFailure || m.IsEdns0() != nil {
		t.Errorf("without EDNS got %v", m)
	}
	r.wantCounts(map[Outcome]uint64{OutcomeUnreachable: 2})
}

func TestWhatIsNoQueryIsDroppedOrAnsweredAtOnce(t *testing.T) {
	long := append(unhex(t, plainHeader+plainQuestion), make([]byte, maxUDPQuery)...)
	for _, test := range []struct {
		name, query, answer string
		long                []byte
		outcome             Outcome
	}{
		{name: "shorter than a header", query: "1234 0100 0001 0000 0000 00", outcome: OutcomeMalformed},
		{name: "empty", query: "", outcome: OutcomeMalformed},
		{name: "a response", query: "1234 8100 0001 0000 0000 0000 " + plainQuestion, outcome: OutcomeResponse},
		{name: "longer than any", long: long, outcome: OutcomeOversized},
		{
			name: "two questions", query: "1234 0110 0002 0000 0000 0000 " + plainQuestion + plainQuestion,
			answer: "1234 8105 0000 0000 0000 0000", outcome: OutcomeRefused,
		},
		{name: "no end of the name", query: plainHeader + "0161 07", answer: "1234 8101 0000 0000 0000 0000", outcome: OutcomeUnparsable},
		{name: "a question that is not there", query: plainHeader, answer: "1234 8101 0000 0000 0000 0000", outcome: OutcomeUnparsable},
		{name: "a name that points at itself", query: plainHeader + "c00c 0001 0001", answer: "1234 8101 0000 0000 0000 0000", outcome: OutcomeUnparsable},
		{name: "no class", query: plainHeader + "0161 00 0001 00", answer: "1234 8101 0000 0000 0000 0000", outcome: OutcomeUnparsable},
		{name: "a label of a kind that is not used", query: plainHeader + "4161 00 0001 0001", answer: "1234 8101 0000 0000 0000 0000", outcome: OutcomeUnparsable},
		{
			name: "too long a name", query: plainHeader + strings.Repeat("01 61", 127) + "01 61 00 0001 0001",
			answer: "1234 8101 0000 0000 0000 0000", outcome: OutcomeUnparsable,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			server, got := rawServer(t, func(q []byte) [][]byte {
				q[2] |= 0x80
				return [][]byte{q}
			})
			r := newRig(t, server, nil)
			query := test.long
			if query == nil {
				query = unhex(t, test.query)
			}
			client := r.client()
			if _, err := client.Write(query); err != nil {
				t.Fatal(err)
			}
			valid := unhex(t, "4321"+plainHeader[4:]+plainQuestion)
			client.Write(valid)
			buffer := make([]byte, maxMessage)
			if test.answer != "" {
				n, err := client.Read(buffer)
				if err != nil || !bytes.Equal(buffer[:n], unhex(t, test.answer)) {
					t.Errorf("got % x, %v; want %s", buffer[:n], err, test.answer)
				}
			}
			n, err := client.Read(buffer)
			if err != nil || !bytes.Equal(buffer[:2], valid[:2]) {
				t.Errorf("the next query's answer is % x, %v", buffer[:n], err)
			}
			r.wantCounts(map[Outcome]uint64{test.outcome: 1, OutcomeForwarded: 1})
			if len(got) != 1 {
				t.Errorf("server was asked %d times", len(got))
			}
		})
	}
}

func TestQueryOfNobodyIsDropped(t *testing.T) {
	server, got := rawServer(t, func(q []byte) [][]byte { return nil })
	r := newRig(t, server, nil)
	r.origin.query.Store(nil)
	r.client().Write(unhex(t, plainHeader+plainQuestion))
	r.wantCounts(map[Outcome]uint64{OutcomeUnknownAsker: 1})
	if len(got) != 0 {
		t.Error("server was asked")
	}
}

func TestQueriesInFlightAreBounded(t *testing.T) {
	query := unhex(t, plainHeader+plainQuestion)
	for _, test := range []struct {
		name    string
		limits  Limits
		asker   bool
		outcome Outcome
	}{
		{"in all", Limits{Queries: 3}, true, OutcomeLimited},
		{"of a process", Limits{QueriesPerProcess: 3}, true, OutcomeProcessLimited},
		{"of an address", Limits{QueriesPerProcess: 3}, false, OutcomeProcessLimited},
	} {
		t.Run(test.name, func(t *testing.T) {
			server, got := rawServer(t, func(q []byte) [][]byte { return nil })
			r := newRig(t, server, func(_ *rig, o *Options) { o.Limits = test.limits })
			r.origin.query.Store(&flow.Query{Server: server, PID: 9, HasAsker: test.asker})
			client := r.client()
			for range 5 {
				client.Write(query)
			}
			r.wantCounts(map[Outcome]uint64{test.outcome: 2})
			for range 3 {
				<-got
			}
			if n := r.Status().Pending; n != 3 {
				t.Errorf("%d pending", n)
			}
			if test.outcome == OutcomeProcessLimited && test.asker {
				r.origin.query.Store(&flow.Query{Server: server, PID: 10, HasAsker: true})
				client.Write(query)
				<-got // another process has its own share
			}
			r.stop()
			if n := r.Status().Pending; n != 0 {
				t.Errorf("%d pending in the end", n)
			}
			if len(r.quota.clients) != 0 {
				t.Errorf("clients %v stay", r.quota.clients)
			}
		})
	}
}

func TestAnswerLeavesFromTheAddressThatWasAsked(t *testing.T) {
	server, _ := rawServer(t, func(q []byte) [][]byte {
		q[2] |= 0x80
		return [][]byte{q}
	})
	r := newRig(t, server, nil)
	v4, v6 := r.Port()
	for _, asked := range []string{"127.0.0.1", "127.9.8.7", "::1"} {
		t.Run(asked, func(t *testing.T) {
			addr := netip.MustParseAddr(asked)
			if addr.Is6() && v6 == 0 {
				t.Fatal("the host has no IPv6")
			}
			conn, err := net.ListenPacket("udp", net.JoinHostPort(asked, "0"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			for k := range uint16(Ports) {
				to := netip.AddrPortFrom(addr, v4+k)
				conn.(*net.UDPConn).WriteToUDPAddrPort(unhex(t, plainHeader+plainQuestion), to)
				_, from, err := conn.(*net.UDPConn).ReadFromUDPAddrPort(make([]byte, 100))
				if err != nil || netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != to {
					t.Errorf("answer from %v, %v; want %v", from, err, to)
				}
			}
		})
	}
}

func TestServerEndsWithQueriesUnderWay(t *testing.T) {
	server, got := rawServer(t, func(q []byte) [][]byte { return nil })
	r := newRig(t, server, nil)
	client := r.client()
	for range 50 {
		client.Write(unhex(t, plainHeader+plainQuestion))
		<-got
	}
	r.stop()
	if n := r.counted()[OutcomeCanceled]; n != 50 {
		t.Errorf("%v", r.counted())
	}
	if _, err := r.Ask(context.Background(), "a.example", "A", server); err != nil {
		t.Errorf("Ask of an ended server: %v", err)
	}
}

func TestNamesThatWereNotAcquiredAreSeen(t *testing.T) {
	upstream := newResolver(t, zone("a.example. 60 IN CNAME b.example.", "a.example. 60 IN A 192.0.2.7", "a.example. 60 IN MX 1 b.example."))
	r := newRig(t, upstream.at, nil)
	for _, kind := range []uint16{wire.TypeA, wire.TypeMX} {
		r.query(new(wire.Msg).SetQuestion("A.example.", kind))
	}
	r.query(new(wire.Msg).SetQuestion("none.example.", wire.TypeAAAA))
	want := []Sighting{
		{Name: "a.example", Type: wire.TypeA, By: r.by(), Original: netip.MustParseAddr("192.0.2.7")},
		{Name: "none.example", Type: wire.TypeAAAA, By: r.by(), Rcode: wire.RcodeNameError},
	}
	waitFor(t, func() bool { return slices.Equal(r.observer.sightings(), want) }, func() any { return r.observer.sightings() })
}
