package resolver

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// dug is an answer as dig shows it.
type dug struct {
	status, flags, server string
	edns                  bool
	answer                []dns.RR
	authority             []dns.RR
}

// dig runs dig on the host, once and with time to wait.
func (b *bed) dig(t testing.TB, args ...string) dug {
	t.Helper()
	args = append([]string{"+tries=1", "+time=10", "+nocookie"}, args...)
	text, err := b.run(t, b.program(t, "dig", args...))
	if err != nil {
		t.Fatalf("dig %v: %v\n%s", args, err, text)
	}
	field := func(expression string) string {
		found := regexp.MustCompile(expression).FindStringSubmatch(text)
		if found == nil {
			return ""
		}
		return found[1]
	}
	return dug{
		status:    field(`status: (\w+)`),
		flags:     field(`;; flags: ([a-z ]+);`),
		server:    field(`;; SERVER: (.+)`),
		edns:      strings.Contains(text, "; EDNS: version: 0"),
		answer:    section(t, text, "ANSWER"),
		authority: section(t, text, "AUTHORITY"),
	}
}

// section is the records of a part of what dig prints.
func section(t testing.TB, text, name string) []dns.RR {
	t.Helper()
	_, after, _ := strings.Cut(text, ";; "+name+" SECTION:\n")
	lines, _, _ := strings.Cut(after, "\n\n")
	var records []dns.RR
	for line := range strings.Lines(lines) {
		record, err := dns.NewRR(line)
		if err != nil {
			t.Fatalf("record %q: %v", line, err)
		}
		records = append(records, record)
	}
	return records
}

func TestDigSeesAnOrdinaryAnswerForAnAcquiredName(t *testing.T) {
	b := newBed(t)
	b.startDnsmasq(t)
	b.startEdge(t)
	b.start(t)
	first := b.dig(t, "@"+dnsmasqAddr, webName, "A")
	if len(first.answer) != 1 {
		t.Fatalf("%+v, want an address", first)
	}
	addr := first.answer[0].(*dns.A).A.String()
	for _, test := range []struct {
		args   string
		name   string
		edns   bool
		server string
	}{
		{"@192.0.2.53 +noedns", webName, false, "192.0.2.53#53(192.0.2.53) (UDP)"},
		{"@192.0.2.53 +edns=0", webName, true, "192.0.2.53#53(192.0.2.53) (UDP)"},
		{"@192.0.2.53 +dnssec", webName, true, "192.0.2.53#53(192.0.2.53) (UDP)"},
		{"@192.0.2.53 +bufsize=512", webName, true, "192.0.2.53#53(192.0.2.53) (UDP)"},
		{"@192.0.2.53 +bufsize=4096 +cookie", webName, true, "192.0.2.53#53(192.0.2.53) (UDP)"},
		{"@192.0.2.53", "wEb.CoRp.ExAmPlE", true, "192.0.2.53#53(192.0.2.53) (UDP)"},
		{"@192.0.2.53 +tcp", webName, true, "192.0.2.53#53(192.0.2.53) (TCP)"},
		{"@192.0.2.53 +tcp +noedns", webName, false, "192.0.2.53#53(192.0.2.53) (TCP)"},
		{"@2001:db8::53", webName, true, "2001:db8::53#53(2001:db8::53) (UDP)"},
		{"@2001:db8::53 +tcp", webName, true, "2001:db8::53#53(2001:db8::53) (TCP)"},
		{"@192.0.2.53 +norecurse +cdflag", webName, true, "192.0.2.53#53(192.0.2.53) (UDP)"},
	} {
		got := b.dig(t, append(strings.Fields(test.args), test.name, "A")...)
		if got.status != "NOERROR" || got.edns != test.edns || got.server != test.server || len(got.answer) != 1 {
			t.Errorf("dig %s: %+v, want an address from %s, EDNS %t", test.args, got, test.server, test.edns)
			continue
		}
		if strings.Contains(got.flags, "ad") {
			t.Errorf("dig %s: flags %s say that the answer is authentic", test.args, got.flags)
		}
		record := got.answer[0].(*dns.A)
		if record.Hdr.Name != test.name+"." || record.Hdr.Ttl > 30 || record.A.String() != addr {
			t.Errorf("dig %s: %v, want %s at %s for 30 s at most", test.args, record, addr, test.name)
		}
	}
	t.Run("no such type", b.checkNoData)
	for _, record := range b.dig(t, "@"+dnsmasqAddr, "+tcp", webName, "ANY").answer {
		if kind := record.Header().Rrtype; kind == dns.TypeAAAA || kind == dns.TypeA && record.(*dns.A).A.String() != addr {
			t.Errorf("one of all records is %v, want none with another address than %s", record, addr)
		}
	}
	t.Run("reverse", func(t *testing.T) { b.checkReverse(t, addr) })
}

// checkNoData wants no hint at another address of an acquired name.
func (b *bed) checkNoData(t *testing.T) {
	for _, kind := range []string{"AAAA", "HTTPS", "SVCB"} {
		for _, way := range []string{"+notcp", "+tcp"} {
			got := b.dig(t, "@"+dnsmasqAddr, way, webName, kind)
			if got.status != "NOERROR" || len(got.answer) != 0 || len(got.authority) != 1 {
				t.Errorf("%s %s: %+v, want no record and why", kind, way, got)
				continue
			}
			if soa, ok := got.authority[0].(*dns.SOA); !ok || min(soa.Hdr.Ttl, soa.Minttl) > 30 {
				t.Errorf("%s %s: %v, want a SOA for 30 s at most", kind, way, got.authority[0])
			}
		}
	}
}

func (b *bed) checkReverse(t *testing.T, addr string) {
	got := b.dig(t, "@"+dnsmasqAddr, "-x", addr)
	if got.status != "NOERROR" || len(got.answer) != 1 || got.answer[0].Header().Ttl > 30 {
		t.Fatalf("%+v, want a name", got)
	}
	if name := got.answer[0].(*dns.PTR).Ptr; name != webName+"." {
		t.Errorf("name is %s, want %s", name, webName)
	}
	if got := b.dig(t, "@"+dnsmasqAddr, "-x", "6.6.250.250"); got.status != "NXDOMAIN" || len(got.answer) != 0 {
		t.Errorf("address without a name: %+v", got)
	}
}

func TestDigSeesNoDifferenceForOrdinaryNames(t *testing.T) {
	b := newBed(t)
	b.startDnsmasq(t)
	b.startUnbound(t)
	b.startEdge(t)
	without := b.digAll(t)
	b.start(t)
	if diff := cmp.Diff(without, b.digAll(t)); diff != "" {
		t.Errorf("answers differ:\n%s", diff)
	}
}

// digAll is what dig prints of ordinary questions, but for times.
func (b *bed) digAll(t *testing.T) map[string][]string {
	t.Helper()
	questions := strings.Fields(plainName + " A PlAiN.eXaMpLe AAAA " + plainName + " ANY " + plainName + " TYPE65280 " + plainName + " HTTPS " +
		"alias.example A missing.example A big.example TXT " + openName + " A " + webName + " MX " + webName + " TYPE65280 -x " + plainAddr)
	texts := make(map[string][]string)
	for _, options := range []string{
		"+noedns", "+edns=0", "+dnssec", "+bufsize=512", "+tcp", "+ignore +noedns", "+nsid", "+ednsopt=65001:ff", "+subnet=203.0.113.0/24",
	} {
		for _, server := range []string{dnsmasqAddr, dnsmasqAddr6, unboundAddr, unboundAddr6} {
			args := append(strings.Fields("@"+server+" +tries=1 +time=10 +nocookie +qid=1 "+options), questions...)
			text, err := b.run(t, b.program(t, "dig", args...))
			if err != nil {
				t.Fatalf("dig %v: %v\n%s", args, err, text)
			}
			if n := strings.Count(text, ";; Got answer:"); n != 12 {
				t.Fatalf("dig %v: %d answers\n%s", args, n, text)
			}
			texts[server+" "+options] = slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool {
				return strings.HasPrefix(line, ";; Query time:") || strings.HasPrefix(line, ";; WHEN:")
			})
		}
	}
	return texts
}
