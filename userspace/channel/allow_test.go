package channel

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestAllowListMatchesWholeLabelsAndAddresses(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, test := range []struct {
		pattern string
		allowed []string
		others  []string
	}{
		{
			"edge.example.com",
			[]string{"edge.example.com", "EDGE.Example.COM", "edge.example.com."},
			[]string{"", ".", "edge.example.com..", "a.edge.example.com", "example.com", "xedge.example.com", "edge.example.com.evil.net", "edge.example.com:443"},
		},
		{
			"Edge.Example.COM.",
			[]string{"edge.example.com", "edge.example.com."},
			[]string{"edge.example.org"},
		},
		{
			"*.example.com",
			[]string{"a.example.com", "a.b.example.com", "A.EXAMPLE.COM", "a.example.com.", "_a-1.example.com", long + ".example.com"},
			[]string{
				"example.com", ".example.com", "badexample.com", "a.example.com.evil.net", "*.example.com", "a..example.com",
				"evil.net/.example.com", "evil.net:443#.example.com", "evil.net\x00.example.com", "evil.net .example.com",
				"évil.example.com", "a.example.Kom", long + "a.example.com", strings.Repeat("a.", 130) + "example.com",
			},
		},
		{"*.com", []string{"a.com", "a.b.com"}, []string{"com", "a.com.net"}},
		{"localhost", []string{"localhost", "LOCALHOST."}, []string{"127.0.0.1", "::1", "a.localhost"}},
		{"xn--bcher-kva.example", []string{"xn--bcher-kva.example"}, []string{"bücher.example"}},
		{"*.example.kom", []string{"a.example.kom"}, []string{"a.example.\u212aom"}}, // the Kelvin sign lowers to k
		{
			"192.0.2.1",
			[]string{"192.0.2.1", "::ffff:192.0.2.1", "::ffff:c000:201"},
			[]string{"192.0.2.2", "192.0.2.1.", "192.0.2.01", "::192.0.2.1", "192.0.2.1.example", "3221225985", "0xc0000201"},
		},
		{"::ffff:192.0.2.1", []string{"192.0.2.1"}, []string{"192.0.2.2"}},
		{
			"192.0.2.77/28",
			[]string{"192.0.2.64", "192.0.2.79", "::ffff:192.0.2.64"},
			[]string{"192.0.2.63", "192.0.2.80", "192.0.2.64.", "a.example"},
		},
		{"0.0.0.0/0", []string{"192.0.2.1"}, []string{"2001:db8::1", "edge.example.com"}},
		{"::/0", []string{"2001:db8::1", "::1"}, []string{"192.0.2.1", "::ffff:192.0.2.1", "edge.example.com", "fe80::1%eth0"}},
		{
			"2001:DB8::1",
			[]string{"2001:db8::1", "2001:DB8:0::1"},
			[]string{"2001:db8::2", "[2001:db8::1]", "2001:db8::1%eth0"},
		},
	} {
		l, err := ParseAllowList([]string{"other.example.org", test.pattern, "198.51.100.0/24"})
		if err != nil {
			t.Errorf("pattern %q: %v", test.pattern, err)
			continue
		}
		for _, host := range append(test.allowed, "other.example.org", "198.51.100.7") {
			if !l.Allows(host) {
				t.Errorf("pattern %q does not allow %q", test.pattern, host)
			}
		}
		for _, host := range test.others {
			if l.Allows(host) {
				t.Errorf("pattern %q allows %q", test.pattern, host)
			}
		}
	}
}

func TestPatternWithoutMeaningIsAnError(t *testing.T) {
	for _, pattern := range []string{
		"", ".", "*", "*.", "*..", ".example.com", "*.*.example.com", "a.*.example.com", "*example.com", "a..example.com",
		"edge.example.com:443", "https://edge.example.com", "edge.example.com/", " edge.example.com", "a b.example.com",
		"édge.example.com", strings.Repeat("a", 64) + ".example.com", "*." + strings.Repeat("a.", 130) + "com",
		"192.0.2", "192.0.2.256", "192.0.2.01", "*.0.2.1", "192.0.2.0/33", "192.0.2.0/", "192.0.2.1.", "192.0.2.1:443",
		"[2001:db8::1]", "2001:db8::/129", "fe80::1%eth0", "fe80::%eth0/64", "::ffff:192.0.2.0/120",
	} {
		l, err := ParseAllowList([]string{"edge.example.com", pattern})
		if err == nil || l != nil {
			t.Errorf("pattern %q is taken: %+v, %v", pattern, l, err)
		} else if !strings.HasPrefix(err.Error(), "parse pattern ") || !strings.Contains(err.Error(), `"`) {
			t.Errorf("pattern %q: %v does not name it", pattern, err)
		}
	}
}

func TestEmptyAllowListAllowsNothing(t *testing.T) {
	none, err := ParseAllowList(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []*AllowList{none, {}} {
		for _, host := range []string{"", "edge.example.com", "192.0.2.1", "::1"} {
			if l.Allows(host) {
				t.Errorf("an empty list allows %q", host)
			}
		}
	}
}

// FuzzAllowList compares with the definition: a host is allowed if it is equal
// to the pattern, below it, or in it, and never if it is not a host.
func FuzzAllowList(f *testing.F) {
	f.Add("*.example.com", "a.example.com")
	f.Add("edge.example.com.", "EDGE.example.com")
	f.Add("192.0.2.0/24", "::ffff:192.0.2.1")
	f.Add("fe80::1%eth0", "fe80::1%eth0")
	f.Add("*.", ".")
	f.Fuzz(func(t *testing.T, pattern, host string) {
		l, err := ParseAllowList([]string{pattern})
		if (l == nil) == (err == nil) {
			t.Fatalf("pattern %q gives %v and %v", pattern, l, err)
		}
		if err != nil || !l.Allows(host) {
			return
		}
		if addr, err := netip.ParseAddr(host); err == nil {
			prefix, err := netip.ParsePrefix(pattern)
			if err != nil {
				only := netip.MustParseAddr(pattern).Unmap()
				prefix = netip.PrefixFrom(only, only.BitLen())
			}
			if addr.Zone() != "" || !prefix.Contains(addr.Unmap()) {
				t.Fatalf("pattern %q allows %q", pattern, host)
			}
			return
		}
		got, want := labels(host), labels(pattern)
		if below := want[0] == "*"; below {
			want = want[1:]
			got = got[min(max(1, len(got)-len(want)), len(got)):]
		}
		if !slices.Equal(got, want) || strings.ContainsAny(host, "/:*%\x00 ") {
			t.Fatalf("pattern %q allows %q", pattern, host)
		}
	})
}

func labels(name string) []string {
	return strings.Split(strings.ToLower(strings.TrimSuffix(name, ".")), ".")
}
