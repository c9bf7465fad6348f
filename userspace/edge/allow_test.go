package edge

import (
	"errors"
	"net/netip"
	"testing"
)

func TestAllowCoversWhatItsRuleSays(t *testing.T) {
	tests := []struct {
		rule, target string
		want         bool
	}{
		{"10.0.0.0/8:*", "10.1.2.3:1", true},
		{"10.0.0.0/8:*", "10.1.2.3:65535", true},
		{"10.0.0.0/8:*", "11.1.2.3:1", false},
		{"10.0.0.0/8:*", "[::ffff:10.1.2.3]:1", true},
		{"10.0.0.0/8:*", "host.corp.example:1", false},
		{"192.168.11.200:22,80", "192.168.11.200:22", true},
		{"192.168.11.200:22,80", "192.168.11.200:80", true},
		{"192.168.11.200:22,80", "192.168.11.200:81", false},
		{"192.168.11.200:22,80", "192.168.11.201:80", false},
		{"192.168.11.200:1000-2000", "192.168.11.200:1000", true},
		{"192.168.11.200:1000-2000", "192.168.11.200:2000", true},
		{"192.168.11.200:1000-2000", "192.168.11.200:999", false},
		{"192.168.11.200:1000-2000", "192.168.11.200:2001", false},
		{"[2001:db8::/32]:443", "[2001:db8::1]:443", true},
		{"[2001:db8::/32]:443", "[2001:db9::1]:443", false},
		{"[2001:db8::1]:443", "[2001:db8::1]:443", true},
		{"[2001:db8::1]:443", "[2001:db8::2]:443", false},
		{"*.corp.example:443", "a.corp.example:443", true},
		{"*.corp.example:443", "a.b.CORP.example.:443", true},
		{"*.corp.example:443", "corp.example:443", false},
		{"*.corp.example:443", "evilcorp.example:443", false},
		{"*.corp.example:443", "a.corp.example.org:443", false},
		{"Web.corp.example:443", "web.Corp.example:443", true},
		{"web.corp.example:443", "a.web.corp.example:443", false},
		{"*:443", "anything.example:443", true},
		{"*:443", "192.0.2.1:443", true},
		{"*:443", "192.0.2.1:444", false},
	}
	for _, test := range tests {
		t.Run(test.rule+" "+test.target, func(t *testing.T) {
			allow, err := ParseAllow([]string{test.rule})
			if err != nil {
				t.Fatal(err)
			}
			target, ok := parseAuthority(test.target)
			if !ok {
				t.Fatalf("parseAuthority(%q) reads nothing", test.target)
			}
			got := target.name != "" && allow.allowsName(target.name, target.port, tcp) ||
				target.addr.IsValid() && allow.allowsAddr(target.addr, target.port, tcp)
			if got != test.want {
				t.Errorf("allowed = %t, want %t", got, test.want)
			}
		})
	}
}

func TestAllowCoversTheProtocolThatItsRuleNames(t *testing.T) {
	tests := []struct {
		rule     string
		tcp, udp bool
	}{
		{"10.0.0.0/8:53", true, true},
		{"10.0.0.0/8:53/tcp", true, false},
		{"10.0.0.0/8:53/udp", false, true},
		{"10.0.0.0/8:*/udp", false, true},
		{"10.0.0.0/8:22,50-60/tcp", true, false},
		{"*:*/udp", false, true},
	}
	for _, test := range tests {
		allow, err := ParseAllow([]string{test.rule})
		if err != nil {
			t.Fatal(err)
		}
		addr := netip.MustParseAddr("10.1.2.3")
		if got := allow.allowsAddr(addr, 53, tcp); got != test.tcp {
			t.Errorf("%s: TCP is allowed = %t, want %t", test.rule, got, test.tcp)
		}
		if got := allow.allowsAddr(addr, 53, udp); got != test.udp {
			t.Errorf("%s: UDP is allowed = %t, want %t", test.rule, got, test.udp)
		}
	}
}

func TestNoRuleAllowsNothing(t *testing.T) {
	allow, err := ParseAllow(nil)
	if err != nil {
		t.Fatal(err)
	}
	if allow.allowsName("a.example", 80, tcp) || allow.allowsAddr(netip.MustParseAddr("192.0.2.1"), 80, tcp) {
		t.Error("an empty list allows a destination")
	}
}

func TestParseAllowSaysWhereARuleIsWrong(t *testing.T) {
	tests := []struct {
		name, rule string
		column     int
	}{
		{"no ports", "10.0.0.0/8", 11},
		{"empty", "", 1},
		{"empty host", ":80", 1},
		{"empty ports", "10.0.0.0/8:", 12},
		{"port 0", "10.0.0.0/8:0", 12},
		{"port beyond 16 bits", "10.0.0.0/8:65536", 12},
		{"empty protocol", "10.0.0.0/8:80/", 15},
		{"another protocol", "10.0.0.0/8:80/sctp", 15},
		{"protocol in capitals", "10.0.0.0/8:80/UDP", 15},
		{"protocol of a single port", "10.0.0.0/8:80/udp,81", 15},
		{"wrong port before a protocol", "10.0.0.0/8:0/udp", 12},
		{"port with sign", "10.0.0.0/8:+80", 12},
		{"port with leading zero", "10.0.0.0/8:080", 12},
		{"port that is a name", "10.0.0.0/8:http", 12},
		{"second port empty", "10.0.0.0/8:80,", 15},
		{"second port wrong", "10.0.0.0/8:80,x", 15},
		{"range without end", "10.0.0.0/8:80-", 15},
		{"range backwards", "10.0.0.0/8:80-79", 15},
		{"star among ports", "10.0.0.0/8:80,*", 15},
		{"prefix with host bits", "10.0.0.1/8:80", 1},
		{"prefix too long", "10.0.0.0/33:80", 1},
		{"IPv6 without brackets", "2001:db8::/32:80", 1},
		{"bracket not closed", "[2001:db8::/32:80", 1},
		{"IPv4 in brackets", "[10.0.0.0/8]:80", 1},
		{"IPv4-mapped", "[::ffff:10.0.0.1]:80", 1},
		{"IPv6 with zone", "[fe80::1%eth0]:80", 1},
		{"star inside a name", "a.*.example:80", 1},
		{"star without dot", "*example:80", 1},
		{"star alone below", "*.:80", 1},
		{"empty label", "a..example:80", 1},
		{"label with hyphen first", "-a.example:80", 1},
		{"space", "a example:80", 1},
		{"number that resolvers read as address", "127.1:80", 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			allow, err := ParseAllow([]string{"10.0.0.0/8:80", test.rule})
			wrong, ok := errors.AsType[*RuleError](err)
			if !ok || allow != nil {
				t.Fatalf("ParseAllow(%q) = %v, %v, want a *RuleError", test.rule, allow, err)
			}
			if wrong.Index != 1 || wrong.Rule != test.rule || wrong.Column != test.column || wrong.Want == "" {
				t.Errorf("got %+v, want index 1, column %d", wrong, test.column)
			}
		})
	}
}

func FuzzParseAllow(f *testing.F) {
	for _, seed := range []string{"10.0.0.0/8:*", "*.corp.example:443", "192.168.11.200:22,80-90", "[2001:db8::/32]:1", "*:*/udp", ":"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, rule string) {
		allow, err := ParseAllow([]string{rule})
		if (allow == nil) == (err == nil) {
			t.Fatalf("ParseAllow = %v, %v, want one of them nil", allow, err)
		}
		if err == nil {
			return
		}
		wrong, ok := errors.AsType[*RuleError](err)
		if !ok || wrong.Column < 1 || wrong.Column > len(rule)+1 {
			t.Fatalf("error %v has no place inside the rule", err)
		}
	})
}
