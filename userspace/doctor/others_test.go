package doctor

import (
	"errors"
	"slices"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOtherAcquirersAreNamed(t *testing.T) {
	const root = "/sys/fs/cgroup"
	links := func(more ...Link) func(*testing.T, *fixture) {
		return func(_ *testing.T, f *fixture) { f.network.Links = append(f.network.Links, more...) }
	}
	rules := func(all ...Rule) func(*testing.T, *fixture) {
		return func(_ *testing.T, f *fixture) { f.network.Rules = all }
	}
	programs := func(all ...Foreign) func(*testing.T, *fixture) {
		return func(_ *testing.T, f *fixture) { f.cgroups = all }
	}
	for _, test := range []struct {
		name   string
		change func(*testing.T, *fixture)
		want   []string
	}{
		{"programs on cgroups", programs(
			Foreign{"cil_sock4_connect", "CGroupInet4Connect", root, false},
			Foreign{"mesh", "CGroupSockOps", root + "/a", false}, Foreign{"mesh", "CGroupSockOps", root + "/b", false},
			Foreign{"", "CGroupGetsockopt", root + "/c", true}, Foreign{"peer", "CgroupInet6GetPeername", root, false},
		), []string{
			"cgroup-programs note program without a name at /sys/fs/cgroup/c, CGroupGetsockopt: it may answer SO_ORIGINAL_DST",
			"cgroup-programs note program cil_sock4_connect (Cilium) at /sys/fs/cgroup, CGroupInet4Connect: it may rewrite destinations",
			"cgroup-programs note program mesh at /sys/fs/cgroup/a and 1 more, CGroupSockOps: it sees the same",
			"cgroup-programs note program peer at /sys/fs/cgroup, CgroupInet6GetPeername: it may change the peer",
		}},
		{"program that wants to be alone", programs(Foreign{"wall", "CGroupInet4Connect", root, true}),
			[]string{"cgroup-programs failure program wall at /sys/fs/cgroup, CGroupInet4Connect, wants no other beside it: the agent is refused with EPERM"}},
		{"program that wants to be alone elsewhere, or where bpfacq is not", programs(
			Foreign{"wall", "CGroupInet4Connect", root + "/a", true}, Foreign{"wall", "CGroupInet4Connect", root + "/b", true},
			Foreign{"tap", "CGroupSetsockopt", root, true},
		), []string{
			"cgroup-programs note program wall at /sys/fs/cgroup/a and 1 more, CGroupInet4Connect: it may rewrite",
			"cgroup-programs note program tap at /sys/fs/cgroup, CGroupSetsockopt: it may answer",
		}},
		{"program that wants to be alone in both places", programs(
			Foreign{"wall", "CGroupSockOps", root + "/a", true}, Foreign{"wall", "CGroupSockOps", root, true},
		), []string{
			"cgroup-programs note program wall at /sys/fs/cgroup/a, CGroupSockOps: it sees",
			"cgroup-programs failure program wall at /sys/fs/cgroup, CGroupSockOps, wants no other beside it",
		}},
		{"very many programs", func(_ *testing.T, f *fixture) {
			for i := range 100 {
				f.cgroups = append(f.cgroups, Foreign{Name: string(rune('a' + i)), Attach: "CGroupSockOps", Place: root})
			}
		}, slices.Repeat([]string{"cgroup-programs note program "}, maxListed)},
		{"search that ended early", func(_ *testing.T, f *fixture) {
			f.cgroups, f.cgErr = []Foreign{{Name: "mesh", Attach: "CGroupSockOps", Place: root}}, errors.New("search cgroups: more than 5")
		}, []string{"cgroup-programs note program mesh", "cgroup-programs unknown search cgroups: more than 5"}},

		{"programs on the uplink", func(_ *testing.T, f *fixture) {
			f.devices = map[int][]Foreign{1: {{Name: "on_lo"}}, 2: {{Name: "cil_to_netdev", Attach: "TCXEgress"}}}
			f.network.Links[1].Filters = []string{"calico_to_host"}
		}, []string{
			"device-programs note program cil_to_netdev (Cilium) on eth0, TCXEgress: it sees packets beside bpfacq",
			"device-programs note tc filter calico_to_host on eth0: it sees packets beside bpfacq",
		}},
		{"uplink that is not to be looked at", func(_ *testing.T, f *fixture) { f.devErr = syscall.ENOMEM },
			[]string{"device-programs unknown look at eth0: cannot allocate memory"}},

		{"TUN devices", links(Link{Index: 7, Name: "tailscale0", Kind: "tun"}, Link{Index: 8, Name: "tun0", Kind: "tuntap"}), []string{
			"tun note TUN device tailscale0 (Tailscale): acquired TCP never reaches it",
			"tun note TUN device tun0 (of whom is not known): acquired TCP",
		}},
		{"TUN device with a default route", links(Link{Index: 7, Name: "CloudflareWARP", Kind: "tun", Uplink: true}),
			[]string{"tun warning TUN device CloudflareWARP (Cloudflare WARP) has a default route: the connections to the edges"}},
		{"TUN device that a process holds", func(t *testing.T, f *fixture) {
			f.write("proc/17/comm", "sing-box\n")
			f.link("proc/17/fd/3", "/dev/null")
			f.link("proc/17/fd/9", "/dev/net/tun")
			f.write("proc/17/fdinfo/9", "pos:\t0\nflags:\t0104002\niff:\ttun0\n")
			f.link("proc/18/fd/9", "/dev/net/tun")
			f.write("proc/18/fdinfo/9", "pos:\t0\n")
			links(Link{Index: 8, Name: "tun0", Kind: "tun"})(t, f)
		}, []string{"tun note TUN device tun0 (sing-box, process 17): "}},

		{"WireGuard devices", links(
			Link{Index: 7, Name: "wg0", Kind: "wireguard", Mark: 51820}, Link{Index: 8, Name: "wt0", Kind: "wireguard"},
			Link{Index: 9, Name: "wg1", Kind: "wireguard", MarkErr: syscall.EBUSY},
		), []string{
			"wireguard note WireGuard device wg0 marks its own packets 0xca6c; bpfacq never acquires them",
			"wireguard note WireGuard device wt0 (NetBird) without a mark",
			"wireguard unknown WireGuard device wg1, mark not known: device or resource busy",
		}},
		{"rules that look at marks", rules(
			Rule{false, 5210, 0x80000, 0xff0000, false, 254}, Rule{true, 100, 1, ^uint32(0), false, 2023},
			Rule{false, 32764, 51820, ^uint32(0), true, 51820},
		), []string{
			"policy-routing note IPv4 rule 5210 sends packets with mark 0x80000/0xff0000 to table 254: bpfacq sets no marks",
			"policy-routing note IPv6 rule 100 sends packets with mark 0x1 to table 2023",
			"policy-routing warning IPv4 rule 32764 sends all packets without mark 0xca6c to table 51820: the connections to the edges, too",
		}},
		{"network that cannot be read", func(_ *testing.T, f *fixture) { f.netErr = errors.New("list links: no") }, []string{
			"synthetic-pool unknown list links: no", "device-programs unknown list links: no", "tun unknown list links: no", "wireguard unknown list links: no", "policy-routing unknown list links: no",
		}},

		{"no nft", func(_ *testing.T, f *fixture) { delete(f.programs, "nft") }, []string{"nftables unknown nft is not installed"}},
		{"nft that fails", func(_ *testing.T, f *fixture) { f.runErr = errors.New("run nft: exit status 1") }, []string{"nftables unknown run nft"}},
		{"nft that writes something else", func(_ *testing.T, f *fixture) { f.programs["nft"] = "table ip x" },
			[]string{"nftables unknown read the answer of nft"}},
		{"rules of nftables", func(_ *testing.T, f *fixture) { f.programs["nft"] = ruleset }, []string{
			"nftables warning table inet proxy, chain out: 1 × redirect: it sees local connections",
			"nftables note table inet proxy, chain pre: 2 × tproxy: it sees forwarded packets",
			"nftables note table inet proxy, chain unused: 1 × redirect", "nftables warning table inet proxy, chain via: 1 × redirect: it sees local connections",
		}},
		{"rules of iptables in nftables", func(_ *testing.T, f *fixture) {
			f.programs["nft"] = `{"nftables": [{"rule": {"family": "ip", "table": "mangle", "chain": "PREROUTING",
				"expr": [{"xt": {"type": "target", "name": "TPROXY"}}, {"xt": {"type": "target", "name": "LOG"}}]}}]}`
		}, []string{"nftables note table ip mangle, chain PREROUTING: 1 × tproxy"}},
		{"rules that only iptables-save shows", func(_ *testing.T, f *fixture) {
			f.programs["nft"] = `{"nftables": [{"rule": {"family": "ip", "table": "nat", "chain": "OUTPUT", "expr": [{"xt": null}]}}]}`
			f.programs["iptables-save"], f.programs["ip6tables-save"] = saved, ""
		}, []string{
			"iptables note table ip mangle, chain PREROUTING: 1 × tproxy", "iptables note table ip nat, chain ISTIO_IN: 1 × redirect",
			"iptables warning table ip nat, chain ISTIO_REDIRECT: 1 × redirect", "iptables warning table ip nat, chain OUTPUT: 2 × redirect",
		}},
		{"old tables", func(_ *testing.T, f *fixture) {
			f.write("proc/thread-self/net/ip6_tables_names", "nat\n")
			f.programs["ip6tables-legacy-save"], f.programs["ip6tables-save"] = saved, "not this one"
		}, []string{
			"iptables note table ip6 mangle, chain PREROUTING: 1 × tproxy", "iptables note table ip6 nat, chain ISTIO_IN: 1 × redirect",
			"iptables warning table ip6 nat, chain ISTIO_REDIRECT: 1 × redirect", "iptables warning table ip6 nat, chain OUTPUT: 2 × redirect",
		}},
		{"old tables without iptables-save", func(_ *testing.T, f *fixture) { f.write("proc/thread-self/net/ip_tables_names", "nat\n") },
			[]string{"iptables unknown iptables-save is not installed: rules of iptables are there and not seen"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := well(t)
			test.change(t, f)
			expect(t, test.want, changed(well(t).examine(t), f.examine(t)))
		})
	}
}

// ruleset is what nft 1.0.6 writes of a table with a few chains, cut down.
const ruleset = `{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
{"table": {"family": "inet", "name": "proxy", "handle": 1}},
{"chain": {"family": "inet", "table": "proxy", "name": "pre", "handle": 1, "type": "filter", "hook": "prerouting", "prio": -150, "policy": "accept"}},
{"chain": {"family": "inet", "table": "proxy", "name": "out", "handle": 2, "type": "nat", "hook": "output", "prio": -100, "policy": "accept"}},
{"rule": {"family": "inet", "table": "proxy", "chain": "pre", "handle": 4, "expr": [
	{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}}, {"tproxy": {"port": 1234}}, {"accept": null}]}},
{"rule": {"family": "inet", "table": "proxy", "chain": "pre", "handle": 5, "expr": [{"tproxy": {"family": "ip", "addr": "127.0.0.1", "port": 1234}}]}},
{"rule": {"family": "inet", "table": "proxy", "chain": "out", "handle": 6, "expr": [{"redirect": {"port": 8080}}]}},
{"rule": {"family": "inet", "table": "proxy", "chain": "out", "handle": 7, "expr": [{"goto": {"target": "via"}}]}},
{"rule": {"family": "inet", "table": "proxy", "chain": "via", "handle": 8, "expr": [{"redirect": {"port": 8081}}, {"jump": {"target": "out"}}]}},
{"rule": {"family": "inet", "table": "proxy", "chain": "unused", "handle": 9, "expr": [{"redirect": {"port": 8082}}]}},
{"rule": {"family": "inet", "table": "proxy", "chain": "out", "handle": 10, "expr": [{"drop": null}]}}]}`

// saved is what iptables-save writes, cut down.
const saved = `# Generated by iptables-save v1.8.9
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 80 -j TPROXY --on-port 1234 --on-ip 0.0.0.0 --tproxy-mark 0x1/0xffffffff
-A PREROUTING -j LOG --log-prefix "-j REDIRECT"
-A PREROUTING -j
COMMIT
*nat
-A OUTPUT -p tcp -j REDIRECT --to-ports 8080
-A OUTPUT -p udp -j REDIRECT --to-ports 53
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -g ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A PREROUTING -p tcp -j ISTIO_IN
-A ISTIO_IN -p tcp -j REDIRECT --to-ports 15006
COMMIT
`

func TestMountsAreFoundByPath(t *testing.T) {
	mounts := []mount{
		{point: "/", kind: "ext4"}, {point: "/sys", kind: "sysfs"}, {point: "/sys/fs/bpf", kind: "tmpfs", hidden: true},
		{point: "/sys/fs/bpf", kind: "bpf"}, {point: "/system", kind: "tmpfs"},
	}
	for path, want := range map[string]string{
		"/": "ext4", "/sys": "sysfs", "/sys/fs": "sysfs", "/sys/fs/bpf": "bpf", "/sys/fs/bpf/x": "bpf", "/sys/fs/bpfx": "sysfs", "/system/x": "tmpfs", "/etc": "ext4",
	} {
		if m, ok := mountOf(mounts, path); !ok || m.kind != want {
			t.Errorf("%s lies on %+v, %t; want %s", path, m, ok, want)
		}
	}
	if m, ok := mountOf(nil, "/"); ok {
		t.Errorf("/ lies on %+v without mounts", m)
	}
}

func TestMountsAreReadWithTheirEscapes(t *testing.T) {
	f := well(t)
	f.write("proc/self/mountinfo", "1 0 0:1 /part /mnt/a\\040b\\134c rw,relatime shared:1 master:2 - cgroup cgroup rw,net_cls\nshort\n")
	want := []mount{{root: "/part", point: `/mnt/a b\c`, kind: "cgroup", super: "rw,net_cls"}}
	if diff := cmp.Diff(want, readMounts(f), cmp.AllowUnexported(mount{})); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}
