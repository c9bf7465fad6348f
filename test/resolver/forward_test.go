package resolver

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// ordinary are queries that no rule speaks of, by what is special in each.
func ordinary() map[string][]byte {
	set := func(change func(*dns.MsgHdr)) func(*dns.Msg) { return func(m *dns.Msg) { change(&m.MsgHdr) } }
	// 255 bytes on the wire.
	long := strings.Repeat(strings.Repeat("a", 62)+".", 3) + strings.Repeat("b", 50) + "." + plainName
	queries := map[string][]byte{
		"mixed case":              query("pLaIn.ExAmPlE", "A"),
		"mixed case, bypassed":    query("OpEn.CoRp.eXaMpLe", "A"),
		"no such name":            query("missing.example", "A"),
		"no such name, bypassed":  query("corp.example", "A"),
		"not this server's":       query("elsewhere.test", "A"),
		"root":                    query(".", "NS"),
		"longest name":            query(long, "A"),
		"alias":                   query("alias.example", "A"),
		"alias of both":           query("alias.example", "AAAA"),
		"service":                 query("_sip._tcp."+plainName, "SRV"),
		"reverse":                 query("20.113.0.203.in-addr.arpa", "PTR"),
		"unknown type":            query(plainName, "A", kind(65280)),
		"type 0":                  query(plainName, "A", kind(0)),
		"chaos":                   query("version.bind", "TXT", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }),
		"no recursion":            query(plainName, "A", set(func(h *dns.MsgHdr) { h.RecursionDesired = false })),
		"checking disabled":       query(plainName, "A", set(func(h *dns.MsgHdr) { h.CheckingDisabled = true })),
		"authentic data":          query(plainName, "A", set(func(h *dns.MsgHdr) { h.AuthenticatedData = true })),
		"reserved bit":            query(plainName, "A", set(func(h *dns.MsgHdr) { h.Zero = true })),
		"notify":                  query(plainName, "SOA", set(func(h *dns.MsgHdr) { h.Opcode = dns.OpcodeNotify })),
		"status":                  query(plainName, "A", set(func(h *dns.MsgHdr) { h.Opcode = dns.OpcodeStatus })),
		"EDNS":                    query(plainName, "A", edns(1232, false)),
		"EDNS, DO":                query(plainName, "A", edns(4096, true)),
		"EDNS, small":             query(plainName, "A", edns(100, false)),
		"EDNS, cookie":            query(plainName, "A", edns(1232, false, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"})),
		"EDNS, unknown option":    query(plainName, "A", edns(1232, false, &dns.EDNS0_LOCAL{Code: 65001, Data: []byte("hello")})),
		"EDNS, client subnet":     query(plainName, "A", edns(1232, false, &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: []byte{203, 0, 113, 0}})),
		"EDNS, unknown version":   query(plainName, "A", edns(1232, false), func(m *dns.Msg) { m.IsEdns0().SetVersion(1) }),
		"more than fits":          query("big.example", "TXT"),
		"more than fits, EDNS":    query("big.example", "TXT", edns(1232, false)),
		"fits into much":          query("big.example", "TXT", edns(4096, false)),
		"unused bytes at the end": append(query(plainName, "A"), 0, 1, 2),
	}
	for _, name := range []string{"ANY", "A", "AAAA", "NS", "SOA", "MX", "TXT", "CAA", "NAPTR", "HTTPS", "SVCB", "DNSKEY", "DS"} {
		queries[name] = query(plainName, name)
	}
	// A rule speaks of their name, but not of what they ask for.
	for _, name := range []string{"MX", "TXT", "NS", "SOA"} {
		queries[name+" of an acquired name"] = query(webName, name)
	}
	return queries
}

// bytesOf asks all queries in all ways: what was asked, and the answer. dnsmasq is
// not asked for several things by one connection, since it answers a query there
// with the EDNS of the one before.
func (b *bed) bytesOf(t *testing.T, servers []string, queries map[string][]byte) map[string]string {
	t.Helper()
	names := slices.Sorted(maps.Keys(queries))
	var all [][]byte
	for i, name := range names {
		query := slices.Clone(queries[name])
		query[0] = byte(i) // for the pipeline
		all = append(all, query)
	}
	answers := make(map[string]string)
	for _, server := range servers {
		ways := []string{wayConnected, waySendTo, wayTCP}
		if server == unboundAddr || server == unboundAddr6 {
			ways = append(ways, wayPipeline)
		}
		for _, way := range ways {
			for i, answer := range b.ask(t, way, server, 5*time.Second, all...) {
				answers[fmt.Sprintf("%s from %s over %s", names[i], server, way)] = answer
			}
		}
	}
	return answers
}

func TestForwardedAnswersAreTheSameByteForByte(t *testing.T) {
	b := newBed(t)
	b.startDnsmasq(t)
	b.startUnbound(t)
	b.startEdge(t)
	servers := []string{dnsmasqAddr, dnsmasqAddr6, unboundAddr, unboundAddr6}
	queries := ordinary()
	without := b.bytesOf(t, servers, queries)
	if again := b.bytesOf(t, servers, queries); !cmp.Equal(without, again) {
		t.Fatalf("servers answer the same differently:\n%s", cmp.Diff(without, again))
	}
	answered := 0
	for _, answer := range without {
		if len(answer) > 20 {
			answered++
		}
	}
	if all := len(without); answered < all*9/10 {
		t.Fatalf("%d of %d queries are answered without the agent", answered, all)
	}

	b.start(t)
	if diff := cmp.Diff(without, b.bytesOf(t, servers, queries)); diff != "" {
		t.Errorf("answers differ:\n%s", diff)
	}
}
