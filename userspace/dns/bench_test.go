package dns

import (
	"context"
	"net/netip"
	"testing"
	"time"

	wire "github.com/miekg/dns"
)

func BenchmarkForwardedQuery(b *testing.B) {
	for _, bench := range []struct {
		name   string
		direct bool
	}{{"direct", true}, {"forwarded", false}} {
		b.Run(bench.name, func(b *testing.B) {
			message := unhex(b, plainHeader+plainQuestion)
			server, got := rawServer(b, func(q []byte) [][]byte {
				q[2] |= 0x80
				return [][]byte{q}
			})
			r := newRig(b, server, nil)
			client := r.client()
			if bench.direct {
				conn, err := r.upstream.DialUDP(b.Context(), r.by())
				if err != nil {
					b.Fatal(err)
				}
				defer conn.Close()
				client = conn
			}
			client.SetDeadline(time.Time{})
			buffer := make([]byte, 512)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Write(message); err != nil {
					b.Fatal(err)
				}
				if _, err := client.Read(buffer); err != nil {
					b.Fatal(err)
				}
				<-got
			}
		})
	}
}

func BenchmarkSyntheticAnswer(b *testing.B) {
	names := newFakeNames()
	names.acquire(acquiredName, acquired())
	names.give(acquiredName, Address{IPv4: netip.MustParseAddr("6.6.0.1")})
	s := newServer(Options{Names: names, Upstream: &fakeUpstream{}})
	defer s.Close()
	s.lookups.stale(subject{name: acquiredName}, time.Now().Add(time.Hour)) // no look-up
	message := pack(b, new(wire.Msg).SetQuestion(acquiredName+".", wire.TypeA).SetEdns0(1232, false))
	b.ReportAllocs()
	for b.Loop() {
		q := &query{message: message, ask: ask{network: "udp"}}
		q.inspect()
		if _, outcome := s.answer(context.Background(), q, s.plan(q)); outcome != OutcomeSynthetic {
			b.Fatal(outcome)
		}
	}
}

func BenchmarkQuestion(b *testing.B) {
	message := unhex(b, plainHeader+plainQuestion)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseQuestion(message); err != nil {
			b.Fatal(err)
		}
	}
}
