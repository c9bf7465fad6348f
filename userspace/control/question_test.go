package control

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

func TestParseFlowReadsAddressesAndNames(t *testing.T) {
	addr := netip.MustParseAddr
	for _, test := range []struct {
		protocol, destination string
		want                  policy.Flow
	}{
		{"tcp", "192.0.2.1:80", policy.Flow{Protocol: policy.TCP, Addr: addr("192.0.2.1"), Port: 80}},
		{"udp", "192.0.2.1:65535", policy.Flow{Protocol: policy.UDP, Addr: addr("192.0.2.1"), Port: 65535}},
		{"tcp", "[2001:db8::1]:1", policy.Flow{Protocol: policy.TCP, Addr: addr("2001:db8::1"), Port: 1}},
		{"tcp", "[::ffff:192.0.2.1]:80", policy.Flow{Protocol: policy.TCP, Addr: addr("192.0.2.1"), Port: 80}},
		{"tcp", "Host_1.Example.COM.:443", policy.Flow{Protocol: policy.TCP, Name: "host_1.example.com", Port: 443}},
		{"tcp", "localhost:22", policy.Flow{Protocol: policy.TCP, Name: "localhost", Port: 22}},
	} {
		if got, err := ParseFlow(test.protocol, test.destination); err != nil || got != test.want {
			t.Errorf("ParseFlow(%q, %q) = %+v, %v, want %+v", test.protocol, test.destination, got, err, test.want)
		}
	}
}

func TestParseFlowSaysHowToWriteIt(t *testing.T) {
	for _, test := range []struct{ protocol, destination, want string }{
		{"icmp", "192.0.2.1:80", `parse protocol "icmp", want tcp or udp`},
		{"TCP", "192.0.2.1:80", `parse protocol "TCP", want tcp or udp`},
		{"tcp", "192.0.2.1", `parse destination "192.0.2.1": want a port, as in "192.0.2.1:443"`},
		{"tcp", "2001:db8::1", `parse destination "2001:db8::1": want IPv6 in brackets and a port, as in "[2001:db8::1]:443"`},
		{"tcp", "2001:db8:0:0:0:0:0:0:1:443", `parse destination "2001:db8:0:0:0:0:0:0:1:443": want IPv6 in brackets and a port, as in "[2001:db8::1]:443"`},
		{"tcp", "[2001:db8::1]", `parse destination "[2001:db8::1]": want IPv6 in brackets and a port, as in "[2001:db8::1]:443"`},
		{"tcp", "[fe80::1%eth0]:80", `parse destination "[fe80::1%eth0]:80": want an address without zone`},
		{"tcp", "example.com", `parse destination "example.com": want HOST:PORT`},
		{"tcp", ":80", `parse destination ":80": want HOST:PORT`},
		{"tcp", "", `parse destination "": want HOST:PORT`},
		{"tcp", "https://example.com/", `parse destination "https://example.com/": want HOST:PORT, not a URL`},
		{"tcp", "example.com:0", `parse destination "example.com:0": port "0", want 1 to 65535`},
		{"tcp", "example.com:65536", `parse destination "example.com:65536": port "65536", want 1 to 65535`},
		{"tcp", "example.com:https", `parse destination "example.com:https": port "https", want 1 to 65535`},
		{"tcp", "192.0.2.256:80", `parse destination "192.0.2.256:80": host "192.0.2.256", want four numbers from 0 to 255 for an IPv4 address`},
		{"tcp", "a..b:80", `parse destination "a..b:80": host "a..b", want an address or a host name`},
		{"tcp", "a b:80", `parse destination "a b:80": host "a b", want an address or a host name`},
		{"tcp", "ünï.example:80", `parse destination "ünï.example:80": host "ünï.example", want an address or a host name`},
	} {
		f, err := ParseFlow(test.protocol, test.destination)
		if err == nil || err.Error() != test.want {
			t.Errorf("ParseFlow(%q, %q) = %v, want %q", test.protocol, test.destination, err, test.want)
		}
		if f != (policy.Flow{}) {
			t.Errorf("ParseFlow(%q, %q) = %+v beside its error", test.protocol, test.destination, f)
		}
	}
}

func FuzzParseFlow(f *testing.F) {
	for _, seed := range []string{"192.0.2.1:80", "[2001:db8::1]:443", "example.com:1", "::", "[", "a:b:c", ":", "1.2.3.4.:1"} {
		f.Add("tcp", seed)
	}
	f.Fuzz(func(t *testing.T, protocol, destination string) {
		flow, err := ParseFlow(protocol, destination)
		if err != nil {
			if flow != (policy.Flow{}) {
				t.Fatalf("ParseFlow(%q, %q) = %+v, %v, want either", protocol, destination, flow, err)
			}
			return
		}
		if flow.Addr.IsValid() == (flow.Name != "") || flow.Port == 0 || len(flow.Name) > 253 {
			t.Fatalf("ParseFlow(%q, %q) = %+v", protocol, destination, flow)
		}
		if strings.ToLower(flow.Name) != flow.Name || flow.Addr.Is4In6() {
			t.Fatalf("ParseFlow(%q, %q) = %+v is not canonical", protocol, destination, flow)
		}
	})
}
