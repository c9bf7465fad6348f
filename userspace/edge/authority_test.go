package edge

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParseAuthorityReadsAuthorities(t *testing.T) {
	tests := []struct {
		authority string
		want      authority
	}{
		{"192.0.2.1:80", authority{addr: netip.MustParseAddr("192.0.2.1"), port: 80}},
		{"[2001:db8::1]:443", authority{addr: netip.MustParseAddr("2001:db8::1"), port: 443}},
		{"[::ffff:192.0.2.1]:80", authority{addr: netip.MustParseAddr("192.0.2.1"), port: 80}},
		{"Host.Example:65535", authority{name: "host.example", port: 65535}},
		{"host.example.:1", authority{name: "host.example", port: 1}},
		{"_srv.host_1:1", authority{name: "_srv.host_1", port: 1}},
		{"3com:1", authority{name: "3com", port: 1}},
		{"xn--bcher-kva.example:1", authority{name: "xn--bcher-kva.example", port: 1}},
	}
	for _, test := range tests {
		test.want.text = test.authority
		if got, ok := parseAuthority(test.authority); !ok || got != test.want {
			t.Errorf("parseAuthority(%q) = %+v, %t, want %+v", test.authority, got, ok, test.want)
		}
	}
}

func TestParseAuthorityRefusesOtherForms(t *testing.T) {
	for name, authority := range map[string]string{
		"empty":                 "",
		"no port":               "host.example",
		"empty port":            "host.example:",
		"port 0":                "host.example:0",
		"port beyond 16 bits":   "host.example:65536",
		"named port":            "host.example:http",
		"empty host":            ":80",
		"dot":                   ".:80",
		"two dots":              "host..:80",
		"userinfo":              "user@host.example:80",
		"scheme":                "http://host.example:80",
		"IPv6 without brackets": "2001:db8::1:80",
		"bracket not closed":    "[2001:db8::1:80",
		"IPv4 in brackets":      "[192.0.2.1]:80",
		"zone":                  "[fe80::1%eth0]:80",
		"short IPv4":            "127.1:80",
		"one number":            "2130706433:80",
		"hexadecimal number":    "0x7f000001:80",
		"octal IPv4":            "0177.0.0.1:80",
		"space":                 "host example:80",
		"zero byte":             "host\x00.example:80",
		"beyond ASCII":          "bücher.example:80",
		"label of 64":           strings.Repeat("a", 64) + ".example:80",
		"name of 254":           strings.Repeat("a.", 126) + "aa:80",
	} {
		if got, ok := parseAuthority(authority); ok {
			t.Errorf("%s: parseAuthority(%q) = %+v, want nothing", name, authority, got)
		}
	}
}

func FuzzParseAuthority(f *testing.F) {
	f.Add("192.0.2.1:80")
	f.Add("[2001:db8::1]:443")
	f.Add("host.example:1")
	f.Fuzz(func(t *testing.T, authority string) {
		got, ok := parseAuthority(authority)
		if !ok {
			return
		}
		if (got.name == "") == !got.addr.IsValid() || got.port == 0 || got.addr.Is4In6() || got.addr.Zone() != "" {
			t.Fatalf("parseAuthority(%q) = %+v", authority, got)
		}
		if _, err := netip.ParseAddr(got.name); err == nil {
			t.Fatalf("parseAuthority(%q) takes an address for a name", authority)
		}
	})
}
