package doctor

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// Each row changes the host that is well in one way, as in doctor_test.go.
func TestWhatKeepsNamesFromBeingAcquiredIsFound(t *testing.T) {
	const (
		profile = "etc/bpfacq/profile.json"
		config  = "etc/bpfacq/bpfacq.toml"
		unit    = "sys/fs/cgroup/system.slice/systemd-resolved.service/cgroup.procs"
	)
	write := func(path, content string) func(*testing.T, *fixture) {
		return func(_ *testing.T, f *fixture) { f.write(path, content) }
	}
	resolvectl := func(dnssec, tls string) func(*testing.T, *fixture) {
		return func(_ *testing.T, f *fixture) {
			f.write(unit, "7\n")
			f.programs["resolvectl dnssec"], f.programs["resolvectl dnsovertls"] = dnssec, tls
		}
	}
	route := func(prefix string, link int) func(*testing.T, *fixture) {
		return func(_ *testing.T, f *fixture) {
			f.network.Routes = append(f.network.Routes, Route{netip.MustParsePrefix(prefix), link})
		}
	}
	configured := func(text string) func(*testing.T, *fixture) {
		return func(_ *testing.T, f *fixture) { f.write(config, string(f.files[config].Data)+text) }
	}
	resolves := func(err error, addrs ...string) func(*testing.T, *fixture) {
		return func(_ *testing.T, f *fixture) {
			f.resolved, f.resolveErr = nil, err
			for _, a := range addrs {
				f.resolved = append(f.resolved, netip.MustParseAddr(a))
			}
		}
	}
	for _, test := range []struct {
		name   string
		change func(*testing.T, *fixture)
		want   []string
	}{
		{"switched off", configured("[fqdn]\nacquire = false\n"), []string{"dns note the profile has names to acquire, and fqdn.acquire is off"}},
		{"names that are bypassed", func(t *testing.T, f *fixture) { f.replace(t, profile, `"Tunnel"`, `"Bypass"`) }, []string{"dns ok no rule acquires names"}},
		{"another relay", configured("[relay]\nexternal-listener = \"127.0.0.1:1\"\nexternal-cgroup = \"/x\"\n"), []string{
			"packets note an external listener gets no packets", "dns note another relay carries the flows", "flowtables ok packets that the host",
		}},
		{"queries left alone", func(_ *testing.T, f *fixture) { f.status.DNS.On, f.status.DNS.Cause = false, "no pool" },
			[]string{"dns warning names are not acquired: no pool"}},
		{"no agent", func(_ *testing.T, f *fixture) { f.agentErr, f.hooks = noAgent(syscall.ENOENT), nil },
			[]string{"pins ok nothing is loaded", "agent note no agent runs"}},
		{"pool nearly full", func(_ *testing.T, f *fixture) { f.status.DNS.Pool.Used = 58980 },
			[]string{"dns warning the pool holds 58980 of 65533 names, and 0 queries found it full"}},
		{"pool that was full", func(_ *testing.T, f *fixture) { f.status.DNS.Pool.Full = 1 },
			[]string{"dns warning the pool holds 3 of 65533 names, and 1 queries found it full"}},
		{"full disk", func(_ *testing.T, f *fixture) { f.status.DNS.Pool.LogError = "no space left on device" },
			[]string{"dns failure no new name is acquired: no space left on device"}},

		{"no pool", func(t *testing.T, f *fixture) {
			f.replace(t, profile, "hostAcquisitionInternalSubNet", "someOtherSubNet")
		},
			[]string{"profile note", "synthetic-pool warning the profile has names to acquire, and no pool"}},
		{"route into the pool", route("6.6.8.0/24", 2),
			[]string{"synthetic-pool failure the pool 6.6.0.0/16 overlaps the route to 6.6.8.0/24 through eth0"}},
		{"route around the pool", route("6.0.0.0/8", 7),
			[]string{"synthetic-pool failure the pool 6.6.0.0/16 overlaps the route to 6.0.0.0/8 through link 7"}},
		{"route beside the pool", route("6.7.0.0/16", 2), nil},
		{"route to all of IPv6", route("2000::/3", 2), nil},
		{"route into the IPv6 pool", func(t *testing.T, f *fixture) {
			configured("[fqdn]\nsynthetic-ipv6 = \"fd00:1::/64\"\n")(t, f)
			route("fd00::/16", 1)(t, f)
		}, []string{"synthetic-pool failure the pool fd00:1::/64 overlaps the route to fd00::/16 through lo"}},
		{"pool that is never acquired", configured("[fqdn]\nsynthetic-ipv6 = \"fd20:ce::/64\"\n"),
			[]string{"synthetic-pool failure the agent rejects the profile: use fd20:ce::/64 for synthetic addresses: it overlaps"}},

		{"no switch", func(_ *testing.T, f *fixture) { delete(f.files, "etc/nsswitch.conf") },
			[]string{"nsswitch ok there is no /etc/nsswitch.conf"}},
		{"switch without hosts", write("etc/nsswitch.conf", "passwd: files\n"), []string{"nsswitch ok /etc/nsswitch.conf leaves it at"}},
		{"switch to systemd-resolved", write("etc/nsswitch.conf", "hosts: mymachines resolve [!UNAVAIL=return] files\n"),
			[]string{"nsswitch ok names are looked up by mymachines resolve [!UNAVAIL=return] files"}},
		{"switch without DNS", write("etc/nsswitch.conf", "hosts: files # dns\n"),
			[]string{`nsswitch failure programs look names up by "files" and never ask DNS`}},
		{"switch that is forbidden", func(_ *testing.T, f *fixture) { f.forbidden["etc/nsswitch.conf"] = true },
			[]string{"nsswitch unknown open etc/nsswitch.conf"}},

		{"name in the hosts file", write("etc/hosts", "10.0.0.1 x "+acquiredName+".\n"), []string{
			`hosts-file warning /etc/hosts has "` + acquiredName + `." at 10.0.0.1: it is never asked for, and so not acquired by rule xxxxxxxx-xxxx-xxxx-xxxx-333333333333`,
		}},
		{"name without address", write("etc/hosts", acquiredName+"\n"), nil},
		{"bypassed name in the hosts file", write("etc/hosts", "10.0.0.1 aps.globalsecureaccess.microsoft.com\n"), nil},
		{"no hosts file", func(_ *testing.T, f *fixture) { delete(f.files, "etc/hosts") }, []string{"hosts-file ok there is no /etc/hosts"}},

		{"resolver that is well", resolvectl("Global: no\nLink 2 (eth0): no\n", "Global: no\nLink 2 (eth0): no\n"),
			[]string{"systemd-resolved ok it runs with neither"}},
		{"resolver that checks", resolvectl("Global: yes\nLink 2 (eth0): no\nLink 3 (wg0): allow-downgrade\n", "Global: no\n"), []string{
			"systemd-resolved warning DNSSEC is on for Global: it refuses synthetic addresses",
			"systemd-resolved warning DNSSEC is up to the server for wg0: if that can, it refuses",
		}},
		{"resolver that encrypts", resolvectl("Global: no\n", "Global: opportunistic\nLink 2 (eth0): yes\n"), []string{
			"systemd-resolved warning DNSOverTLS is on for eth0: it asks by TLS",
			"systemd-resolved warning DNSOverTLS is up to the server for Global: if that can, it asks by TLS",
		}},
		{"resolver without its program", write(unit, "7\n"), []string{"systemd-resolved unknown systemd-resolved runs, and its program"}},
		{"resolver that does not answer", func(t *testing.T, f *fixture) {
			resolvectl("", "")(t, f)
			f.runErr = errors.New("no bus")
		}, []string{
			"systemd-resolved unknown ask systemd-resolved: no bus", "systemd-resolved unknown ask systemd-resolved: no bus",
			"nftables unknown no bus",
		}},

		{"name that reaches the resolver", resolves(nil, "192.0.2.1", "2001:db8::1"), []string{
			"name warning " + acquiredName + " is to be acquired, and applications get 192.0.2.1, 2001:db8::1, which is not of the pool",
		}},
		{"name that is not found", resolves(errors.New("no such host")), []string{
			"name warning " + acquiredName + " is to be acquired, and nobody knows it: no such host",
		}},
		{"name of mapped form", resolves(nil, "::ffff:6.6.0.9"), []string{"name ok " + acquiredName + " is acquired: applications get"}},
		{"name of a channel that is down", func(t *testing.T, f *fixture) {
			resolves(nil, "192.0.2.1")(t, f)
			f.status.Channels[0].State, f.status.Channels[0].Cause = "down", "refused"
		}, []string{`agent warning channel "Private" is down: refused`, "name note " + acquiredName + " is not acquired while its channel is down"}},
		{"name that is blocked while its channel is down", func(t *testing.T, f *fixture) {
			f.replace(t, profile, `"hardening": "Bypass"`, `"hardening": "Block"`)
			f.status.Channels[0].State, f.status.Channels[0].Cause = "down", "refused"
		}, []string{`agent warning channel "Private" is down: refused`}},
		{"only patterns", func(t *testing.T, f *fixture) {
			f.replace(t, profile, `private\\.edgediagnostic`, `.+\\.edgediagnostic`)
		},
			[]string{"name note the rules have only patterns"}},
		{"name in capitals", func(t *testing.T, f *fixture) {
			f.replace(t, profile, `private\\.edgediagnostic`, `WWW\\.edgediagnostic`)
		},
			[]string{"name ok www.edgediagnostic.globalsecureaccess.microsoft.com is acquired: applications get 6.6.0.1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := well(t)
			test.change(t, f)
			expect(t, test.want, changed(well(t).examine(t), f.examine(t)))
		})
	}
}

func TestOnlyOneNameIsAskedFor(t *testing.T) {
	f := well(t)
	f.examine(t)
	if diff := cmp.Diff([]string{acquiredName}, f.asked); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
}

func TestLiteralNamesAreToldFromPatterns(t *testing.T) {
	for source, want := range map[string]string{
		`www\.example\.com`: "www.example.com", `WWW\.Example\.com`: "www.example.com", `(?:a)\.b`: "a.b", `a`: "a",
		`www.example.com`: "", `.+\.example\.com`: "", `a|b`: "", `(`: "", ``: "", `\.`: "",
	} {
		if got, ok := literal(source); got != want || ok != (want != "") {
			t.Errorf("literal(%q) = %q, %v, want %q", source, got, ok, want)
		}
	}
}

func TestRoutesOfAllTablesAreRead(t *testing.T) {
	ns := testutil.Netns(t)
	var n *Network
	err := ns.Do(func() error {
		link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "up1"}
		if err := netlink.LinkAdd(link); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		for i, prefix := range []string{"6.6.8.0/24", "0.0.0.0/0", "0.0.0.0/1", "10.0.0.0/8"} {
			_, dst, err := net.ParseCIDR(prefix)
			if err != nil {
				return err
			}
			route := &netlink.Route{LinkIndex: link.Index, Scope: netlink.SCOPE_LINK, Dst: dst, Table: 100 + i}
			if err := netlink.RouteAdd(route); err != nil {
				return err
			}
		}
		blackhole := &netlink.Route{Type: 6, Dst: &net.IPNet{IP: net.IPv4(11, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)}}
		if err := netlink.RouteAdd(blackhole); err != nil {
			return err
		}
		var err error
		n, err = ReadNetwork()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	got := slices.DeleteFunc(n.Routes, func(r Route) bool { return r.Link == 1 || r.Prefix.Addr().Is6() })
	want := []Route{{netip.MustParsePrefix("6.6.8.0/24"), 3}, {netip.MustParsePrefix("10.0.0.0/8"), 3}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
}
