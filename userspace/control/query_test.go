package control

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

func TestParseQuestionReadsNamesAndAddresses(t *testing.T) {
	none := netip.AddrPort{}
	at := netip.MustParseAddrPort
	for _, test := range []struct {
		name, kind, server string
		want               Question
	}{
		{"www.example.com", "", "", Question{"www.example.com", "A", none}},
		{"WWW.Example.com.", "aaaa", "", Question{"www.example.com", "AAAA", none}},
		{"_sip._tcp.example", "SRV", "192.0.2.53", Question{"_sip._tcp.example", "SRV", at("192.0.2.53:53")}},
		{"a", "type65280", "[2001:db8::53]:5353", Question{"a", "TYPE65280", at("[2001:db8::53]:5353")}},
		{".", "ns", "2001:db8::53", Question{"", "NS", at("[2001:db8::53]:53")}},
		{"a", "a", "::ffff:192.0.2.1", Question{"a", "A", at("192.0.2.1:53")}},
		{"6.6.0.5", "", "", Question{"5.0.6.6.in-addr.arpa", "PTR", none}},
		{"::ffff:6.6.0.5", "ptr", "", Question{"5.0.6.6.in-addr.arpa", "PTR", none}},
		{"6.6.0.5", "A", "", Question{"6.6.0.5", "A", none}},
		{"2001:db8::567:89ab", "", "", Question{"b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "PTR", none}},
		{`a\.b.example`, "", "", Question{`a\046b.example`, "A", none}},
	} {
		got, err := ParseQuestion(test.name, test.kind, test.server)
		if err != nil || got != test.want {
			t.Errorf("ParseQuestion(%q, %q, %q) = %+v, %v, want %+v", test.name, test.kind, test.server, got, err, test.want)
		}
	}
}

func TestParseQuestionSaysHowToWriteIt(t *testing.T) {
	const name, server = ", want labels of 1 to 63 bytes between dots, 253 in all", ", want an address, as in 192.0.2.53 or [2001:db8::53]:53"
	long := strings.Repeat("a", 64)
	for _, test := range []struct{ name, kind, server, want string }{
		{"", "", "", `parse name ""` + name},
		{"a..b", "", "", `parse name "a..b"` + name},
		{long, "", "", `parse name "` + long + `"` + name},
		{"a", "a b", "", `parse type "a b", want one such as A, AAAA or TYPE65`},
		{"a", "*", "", `parse type "*", want one such as A, AAAA or TYPE65`},
		{"a", "a", "dns.example", `parse server "dns.example"` + server},
		{"a", "a", "192.0.2.1:0", `parse server "192.0.2.1:0"` + server},
		{"a", "a", "192.0.2.1:99999", `parse server "192.0.2.1:99999"` + server},
		{"a", "a", "fe80::1%eth0", `parse server "fe80::1%eth0"` + server},
	} {
		q, err := ParseQuestion(test.name, test.kind, test.server)
		if err == nil || err.Error() != test.want {
			t.Errorf("ParseQuestion(%q, %q, %q) = %v, want %q", test.name, test.kind, test.server, err, test.want)
		}
		if q != (Question{}) {
			t.Errorf("ParseQuestion(%q, %q, %q) = %+v beside its error", test.name, test.kind, test.server, q)
		}
	}
}

func FuzzParseQuestion(f *testing.F) {
	f.Add("www.example.com", "AAAA", "192.0.2.53")
	f.Add("2001:db8::1", "", "[2001:db8::53]:53")
	f.Add("a\\000b.", "TYPE65535", "::")
	f.Fuzz(func(t *testing.T, name, kind, server string) {
		q, err := ParseQuestion(name, kind, server)
		if err != nil {
			if q != (Question{}) {
				t.Fatalf("ParseQuestion(%q, %q, %q) = %+v beside %v", name, kind, server, q, err)
			}
			return
		}
		if canonical, ok := policy.CanonicalName(q.Name); (!ok || canonical != q.Name) && q.Name != "" {
			t.Fatalf("ParseQuestion(%q, %q, %q) = %+v, whose name is not canonical", name, kind, server, q)
		}
		if q.Type == "" || q.Type != strings.ToUpper(q.Type) || q.Server.IsValid() != (server != "") {
			t.Fatalf("ParseQuestion(%q, %q, %q) = %+v", name, kind, server, q)
		}
	})
}
