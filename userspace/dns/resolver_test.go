package dns

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/miekg/dns"
)

// resolver is a DNS server on loopback, by UDP and TCP on one port.
type resolver struct {
	at      netip.AddrPort
	queries atomic.Int64
}

func newResolver(t testing.TB, answer func(w wire.ResponseWriter, q *wire.Msg)) *resolver {
	t.Helper()
	r := new(resolver)
	var packet net.PacketConn
	var listener net.Listener
	for range 20 {
		var err error
		if packet, err = net.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		r.at = packet.LocalAddr().(*net.UDPAddr).AddrPort()
		if listener, err = net.Listen("tcp4", r.at.String()); err == nil {
			break
		}
		packet.Close()
	}
	handle := wire.HandlerFunc(func(w wire.ResponseWriter, q *wire.Msg) {
		r.queries.Add(1)
		answer(w, q)
	})
	for _, s := range []*wire.Server{{PacketConn: packet, Handler: handle}, {Listener: listener, Handler: handle}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			s.ShutdownContext(ctx)
			<-ended
		})
	}
	return r
}

// zone answers from a table of records, with NXDOMAIN for names that are not in it.
func zone(texts ...string) func(wire.ResponseWriter, *wire.Msg) {
	all := make([]wire.RR, len(texts))
	for i, text := range texts {
		var err error
		if all[i], err = wire.NewRR(text); err != nil {
			panic(err) // of a text in a test
		}
	}
	return func(w wire.ResponseWriter, q *wire.Msg) {
		m := new(wire.Msg).SetRcode(q, wire.RcodeNameError)
		for _, rr := range all {
			if !equalNames(rr.Header().Name, q.Question[0].Name) {
				continue
			}
			m.Rcode = wire.RcodeSuccess
			if kind := rr.Header().Rrtype; kind == q.Question[0].Qtype || kind == wire.TypeCNAME {
				m.Answer = append(m.Answer, rr)
			}
		}
		w.WriteMsg(m)
	}
}

func equalNames(a, b string) bool { return wire.CanonicalName(a) == wire.CanonicalName(b) }

// rawServer answers each datagram with what reply makes of it.
func rawServer(t testing.TB, reply func(query []byte) [][]byte) (netip.AddrPort, chan []byte) {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan []byte, 1000)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buffer := make([]byte, maxMessage)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			query := slices.Clone(buffer[:n])
			got <- query
			for _, answer := range reply(query) {
				conn.WriteTo(answer, from)
			}
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-ended
	})
	return conn.LocalAddr().(*net.UDPAddr).AddrPort(), got
}
