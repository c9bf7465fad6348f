package dns

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

func FuzzQuestion(f *testing.F) {
	f.Add(unhex(f, plainHeader+plainQuestion))
	f.Add(unhex(f, plainHeader+"c00c 0001 0001"))
	f.Add(unhex(f, plainHeader+"0341 2e00 00 0001 0001"))
	f.Fuzz(func(t *testing.T, message []byte) {
		if len(message) < headerSize {
			return
		}
		q, err := parseQuestion(message)
		if (err == nil) != (q.end > 0) {
			t.Fatalf("%+v, %v", q, err)
		}
		if err != nil {
			return
		}
		// What is read is what the library reads.
		name, end, err := wire.UnpackDomainName(message, headerSize)
		if err != nil || end+4 != q.end {
			t.Fatalf("%+v, want %q to %d, %v", q, name, end+4, err)
		}
		back := make([]byte, maxName+1)
		n, err := wire.PackDomainName(wire.Fqdn(q.name), back, 0, nil, false)
		if err != nil || !bytes.EqualFold(back[:n], message[headerSize:end]) && isASCII(message[headerSize:end]) {
			t.Fatalf("%q is % x, want % x: %v", q.name, back[:n], message[headerSize:end], err)
		}
	})
}

func isASCII(b []byte) bool {
	return !slices.ContainsFunc(b, func(c byte) bool { return c >= 0x80 })
}

// fuzzUpstream answers through pipes and nets of memory with the same bytes.
type fuzzUpstream struct{ answer []byte }

func (u fuzzUpstream) Route(flow.Query, string) Route { return RouteTunnel }
func (u fuzzUpstream) Trusted(flow.Query) bool        { return true }

func (u fuzzUpstream) DialUDP(context.Context, flow.Query) (*net.UDPConn, error) {
	return nil, io.ErrUnexpectedEOF
}

func (u fuzzUpstream) DialTCP(context.Context, flow.Query) (*net.TCPConn, error) {
	return nil, io.ErrUnexpectedEOF
}

func (u fuzzUpstream) Tunnel(context.Context, netip.AddrPort) (io.ReadWriteCloser, error) {
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		for {
			query, err := readFramed(far)
			if err != nil {
				return
			}
			answer := slices.Clone(u.answer)
			if len(answer) >= headerSize {
				copy(answer, query[:2])
				answer[2] |= 0x80
			}
			if _, err := far.Write(framed(answer)); err != nil {
				return
			}
		}
	}()
	return near, nil
}

func FuzzRewrite(f *testing.F) {
	answer, err := (&wire.Msg{
		MsgHdr: wire.MsgHdr{Response: true}, Question: []wire.Question{{Name: "x.corp.example.", Qtype: 1, Qclass: 1}},
		Answer: []wire.RR{&wire.A{Hdr: header("x.corp.example.", wire.TypeA), A: net.IPv4(192, 0, 2, 7)}},
	}).Pack()
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"0178", "0178 0463 6f72 7007 6578 616d 706c 65", "0161"} {
		for _, kind := range []string{"0001", "001c", "0041", "00ff", "000c", "000f"} {
			f.Add(unhex(f, plainHeader+name+"00"+kind+"0001"), answer)
		}
	}
	f.Add(unhex(f, "1234 0100 0001 0000 0000 0001 0161 00 0001 0001 00 0029 1000 0000 8000 0000"), []byte{})
	f.Fuzz(func(t *testing.T, message, answer []byte) {
		names := newFakeNames()
		names.judge["a"], names.judge["x.corp.example"] = acquired(), Judgement{Acquired: true, IPv6: true}
		s := newServer(Options{
			Names: names, Upstream: fuzzUpstream{answer}, Observer: &fakeObserver{}, Limits: Limits{Timeout: 5 * time.Millisecond},
			Private: &fakePrivate{suffix: ".corp.example", server: netip.MustParseAddrPort("192.0.2.1:53")},
		})
		defer s.Close()
		q := &query{message: slices.Clone(message), ask: ask{network: "udp", trace: new(tracer)}}
		if _, reply, done := q.inspect(); done {
			if reply != nil && (len(reply) != headerSize || !bytes.Equal(reply[:2], message[:2])) {
				t.Fatalf("reply % x", reply)
			}
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), s.limits.Timeout)
		defer cancel()
		reply, outcome := s.answer(ctx, q, s.plan(q))
		if !bytes.Equal(q.message, message) {
			t.Fatal("the query was changed")
		}
		if reply == nil {
			if outcome != OutcomeTimeout && outcome != OutcomeCanceled {
				t.Fatalf("no answer, but %v", outcome)
			}
			return
		}
		if len(reply) < headerSize || !bytes.Equal(reply[:2], message[:2]) || flags(reply)&flagResponse == 0 {
			t.Fatalf("%v: % x", outcome, reply)
		}
		if outcome == OutcomeSynthetic && !bytes.Equal(reply[headerSize:q.end], message[headerSize:q.end]) {
			t.Fatalf("question is % x", reply)
		}
	})
}

func FuzzSkim(f *testing.F) {
	f.Add(unhex(f, "1234 8180 0001 0001 0000 0000 "+plainQuestion+"c00c 0001 0001 0000 0e10 0004 c000 0207"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		if len(answer) < headerSize {
			return
		}
		asked, err := parseQuestion(answer)
		if err != nil {
			return
		}
		addr := skim(answer, asked)
		var m wire.Msg
		if m.Unpack(answer) != nil || len(m.Question) != 1 || asked.kind != wire.TypeA || asked.class != wire.ClassINET {
			return
		}
		for _, rr := range m.Answer {
			if a, ok := rr.(*wire.A); ok && rr.Header().Class == wire.ClassINET && rr.Header().Rdlength == 4 {
				if want, _ := netip.AddrFromSlice(a.A.To4()); addr != want {
					t.Fatalf("%v, want %v", addr, want)
				}
				return
			}
		}
	})
}

func TestAddressIsReadFromItsReverseName(t *testing.T) {
	for _, text := range []string{"192.0.2.7", "0.0.0.0", "255.255.255.255", "2001:db8::7", "fd00::1234:abcd"} {
		name, err := wire.ReverseAddr(text)
		if err != nil {
			t.Fatal(err)
		}
		if addr, ok := reversed(name[:len(name)-1]); !ok || addr != netip.MustParseAddr(text) {
			t.Errorf("%s is %v, %v", name, addr, ok)
		}
	}
	for _, name := range []string{
		"", "in-addr.arpa", "0.2.192.in-addr.arpa", "1.7.2.0.192.in-addr.arpa", "07.2.0.192.in-addr.arpa", "256.2.0.192.in-addr.arpa",
		"+7.2.0.192.in-addr.arpa", "7.2.0.192.ip6.arpa", "..2.0.192.in-addr.arpa", "7.2.0.192.in-addr.arpa.example",
	} {
		if addr, ok := reversed(name); ok {
			t.Errorf("%q is %v", name, addr)
		}
	}
}
