package policy_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

func TestMostSpecificPrivateServerIsAsked(t *testing.T) {
	server := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, n}) }
	p := &policy.Policy{PrivateDNS: []policy.PrivateDNSRule{
		{Suffix: "example", Server: server(1)},
		{Suffix: "corp.example", Server: server(2)},
		{Suffix: "corp.example", Server: server(9)},
		{Suffix: "app.global.local", Server: server(3), SingleLabel: true},
		{Suffix: "other.local", Server: server(4), SingleLabel: true},
		{Suffix: "lan", Server: server(5)},
		{Server: server(8)},
	}}
	label := strings.Repeat("a", 63)
	for _, test := range []struct {
		name   string
		server byte // or 0
		ask    string
	}{
		{"a.example", 1, "a.example"},
		{"example", 1, "example"},
		{"corp.example", 2, "corp.example"},
		{"A.Corp.Example.", 2, "a.corp.example"},
		{"a.b.corp.example", 2, "a.b.corp.example"},
		{"xcorp.example", 1, "xcorp.example"},
		{`x\.corp.example`, 1, `x\046corp.example`},
		{"build", 3, "build.app.global.local"},
		{"Build.", 3, "build.app.global.local"},
		{"lan", 5, "lan"},
		{"build.other.local", 4, "build.other.local"},
		{"xlan", 3, "xlan.app.global.local"},
		{label, 3, label + ".app.global.local"},
		{"build.local", 0, ""},
		{"example.com", 0, ""},
		{"", 0, ""},
		{".", 0, ""},
		{"a..example", 0, ""},
	} {
		got, ask, ok := p.PrivateServer(test.name)
		want := netip.Addr{}
		if test.server != 0 {
			want = server(test.server)
		}
		if got != want || ask != test.ask || ok != want.IsValid() {
			t.Errorf("PrivateServer(%q) = %v, %q, %t, want %v, %q", test.name, got, ask, ok, want, test.ask)
		}
	}
	long := strings.TrimSuffix(strings.Repeat(label+".", 3), ".") + "." + label[:60]
	p = &policy.Policy{PrivateDNS: []policy.PrivateDNSRule{{Suffix: long, Server: server(1), SingleLabel: true}}}
	if got, ask, ok := p.PrivateServer("a"); ok || ask != "" || got.IsValid() {
		t.Errorf("name too long with its suffix: %v, %q, %t", got, ask, ok)
	}
	if _, _, ok := new(policy.Policy).PrivateServer("a.example"); ok {
		t.Error("a private server without rules")
	}
}
