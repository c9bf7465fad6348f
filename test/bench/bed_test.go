package bench

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// edgeName is how profile and certificate call the edge.
const edgeName = "edge.bench.example"

// bed is where the contenders meet. Every near namespace is one host: what one
// contender does to its host (nft, conntrack) is no burden to another. All have
// the same way to the targets, through the namespace of the edges: direct flows
// are forwarded there, and the others end there and begin anew.
type bed struct {
	near       *netns.Namespace // of direct, bypassed and acquired flows
	edges      *netns.Namespace
	site       *netns.Namespace // of the targets
	files      testutil.Files
	folder     string
	flows      int
	contenders []contender
	targets    *child
}

// Addresses of the targets: to the one flows pass, to the other they are carried.
var (
	passed  = netip.MustParseAddr("192.168.11.2")
	carried = netip.MustParseAddr("192.168.11.3")
)

// siteNetwork is the network of the targets.
const siteNetwork = "192.168.11.0/24"

// contender is one way for flows to go.
type contender struct {
	name        string
	how         string
	application *child
	target      netip.Addr
	carriers    []*child // what else works for its flows
}

// at is the contender's target on a port.
func (c contender) at(port uint16) netip.AddrPort { return netip.AddrPortFrom(c.target, port) }

// via is the contender with another target.
func (c contender) via(target netip.Addr) contender {
	c.target = target
	return c
}

// carrier is the process that carries the contender's flows in a role.
func (c contender) carrier(role string) *child {
	for _, p := range c.carriers {
		if p.role == role {
			return p
		}
	}
	return nil
}

// everyone is all processes that work for the contender's flows.
func (c contender) everyone() []*child { return append([]*child{c.application}, c.carriers...) }

func newBed(t *testing.T, flows int) *bed {
	t.Helper()
	b := &bed{
		near:   testutil.Netns(t),
		edges:  testutil.Netns(t),
		site:   testutil.Netns(t),
		folder: t.TempDir(),
		flows:  flows,
	}
	b.joinSite(t)
	b.join(t, b.near, 1)
	b.files = testutil.NewAuthority(t).WriteFiles(t, b.folder, edgeName)
	b.targets = startChild(t, b.site, "", "target", "target", strconv.Itoa(flows))
	hooked := testutil.Cgroup(t)
	b.contenders = []contender{
		{
			name: "direct", how: "no hooks",
			application: b.startApplication(t, b.near, ""), target: passed, carriers: []*child{b.targets},
		},
		{
			name: "bypassed", how: "hooks attached, a Bypass rule",
			application: b.startApplication(t, b.near, hooked), target: passed, carriers: []*child{b.targets},
		},
		b.acquired(t, b.near, 1, hooked, ""),
		b.redsocks(t),
	}
	if path := os.Getenv("SINGBOX"); path != "" {
		b.contenders = append(b.contenders, b.singBox(t, path))
	}
	if *against != "" {
		b.contenders = append(b.contenders, b.other(t, *against))
	}
	return b
}

func (b *bed) contender(name string) contender { return named(b.contenders, name) }

func named(contenders []contender, name string) contender {
	for _, c := range contenders {
		if c.name == name {
			return c
		}
	}
	return contender{}
}

// edgeOf is where a host reaches its edge, which is also its gateway.
func edgeOf(host byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 99, host, 1}) }

// joinSite connects the edges with the targets.
func (b *bed) joinSite(t *testing.T) {
	t.Helper()
	gateway := netip.MustParseAddr("192.168.11.1")
	testutil.Veth(t,
		netns.End{Namespace: b.edges, Name: "site", Addrs: []netip.Prefix{netip.PrefixFrom(gateway, 24)}},
		netns.End{
			Namespace: b.site, Name: "up0",
			Addrs:  []netip.Prefix{netip.PrefixFrom(passed, 24), netip.PrefixFrom(carried, 24)},
			Routes: []netns.Route{{Prefix: netip.MustParsePrefix("10.99.0.0/16"), Via: gateway}},
		})
	tune(t, b.edges, map[string]string{"ip_forward": "1"})
	reusePorts(t, b.edges)
}

// join connects a host with the edges, and through them with the targets.
func (b *bed) join(t *testing.T, near *netns.Namespace, host byte) {
	t.Helper()
	testutil.Veth(t,
		netns.End{
			Namespace: near, Name: "up0",
			Addrs:  []netip.Prefix{netip.PrefixFrom(edgeOf(host).Next(), 24)},
			Routes: []netns.Route{{Prefix: netip.MustParsePrefix(siteNetwork), Via: edgeOf(host)}},
		},
		netns.End{
			Namespace: b.edges, Name: fmt.Sprintf("host%d", host),
			Addrs: []netip.Prefix{netip.PrefixFrom(edgeOf(host), 24)},
		})
	reusePorts(t, near)
}

// reusePorts frees the ports of connections that were closed in order soon
// enough for thousands of them a second.
func reusePorts(t *testing.T, ns *netns.Namespace) {
	t.Helper()
	tune(t, ns, map[string]string{"ip_local_port_range": "10000 65000", "tcp_tw_reuse": "1"})
}

func tune(t *testing.T, ns *netns.Namespace, settings map[string]string) {
	t.Helper()
	for name, value := range settings {
		err := ns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0) })
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (b *bed) startApplication(t *testing.T, ns *netns.Namespace, cgroup string) *child {
	t.Helper()
	return startChild(t, ns, cgroup, "application", "application", strconv.Itoa(b.flows))
}

// acquired is bpfacq on a host, without a packet path.
func (b *bed) acquired(t *testing.T, near *netns.Namespace, host byte, hooked, binary string) contender {
	t.Helper()
	agent, edge := b.carriers(t, near, setting{
		host: host, cgroup: hooked, binary: binary, transport: config.TransportAuto, uplinks: []string{},
	})
	return contender{
		name: "acquired", how: "hooks, agent, HTTP/2 over TLS 1.3, bpfacq edge",
		application: b.startApplication(t, near, hooked), target: carried,
		carriers: []*child{agent, edge, b.targets},
	}
}

// setting is what differs between agents.
type setting struct {
	host      byte
	cgroup    string // whose sockets are acquired
	binary    string // of agent and edge, unless it is this one
	transport string // of the configuration
	uplinks   []string
}

// carriers are an agent of a host's own, and an edge of its own.
func (b *bed) carriers(t *testing.T, near *netns.Namespace, s setting) (agent, edge *child) {
	t.Helper()
	start := func(ns *netns.Namespace, cgroup, role, scenario string, args ...string) *child {
		cmd := testutil.ScenarioCommand(t, scenario, append(args, strconv.Itoa(b.flows))...)
		cmd.Path = cmp.Or(s.binary, cmd.Path)
		return startObeying(t, ns, cgroup, role, cmd)
	}
	scenario := "edge"
	if s.transport == config.TransportHTTP3 {
		scenario = "quic-edge"
	}
	listen := netip.AddrPortFrom(edgeOf(s.host), portEdge).String()
	edge = start(b.edges, "", "edge", scenario, listen, b.files.Certificate, b.files.Key, siteNetwork+":*")
	// Below the hooked cgroup, as on a host, where the hooks see the agent's
	// sockets too.
	cgroup := filepath.Join(s.cgroup, "agent")
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	return start(near, cgroup, "agent", "agent", b.configure(t, s)), edge
}

// other is another build of this test, whose agent and edge contend with this
// one's: before and after a change, side by side.
func (b *bed) other(t *testing.T, binary string) contender {
	t.Helper()
	near := testutil.Netns(t)
	b.join(t, near, 4)
	c := b.acquired(t, near, 4, testutil.Cgroup(t), binary)
	c.name, c.how = "other", "as acquired, by "+filepath.Base(binary)
	return c
}

// configure writes the files of a host's agent, and returns the path of its
// configuration.
func (b *bed) configure(t *testing.T, s setting) string {
	t.Helper()
	file := func(name string) string { return fmt.Sprintf("host%d-%s", s.host, name) }
	c := config.Default()
	c.Profile = b.write(t, file("profile.json"), profile(t))
	c.StateDir = filepath.Join(b.folder, file("state"))
	c.Kernel.Cgroup = s.cgroup
	c.Packet.Uplinks = s.uplinks
	c.Kernel.Pins = filepath.Join(testutil.BPFFS(t), "bpfacq")
	c.Edges.Allow = []string{edgeName}
	c.Edges.CAFile = b.files.Roots
	c.Edges.Addresses = map[string]string{edgeName: edgeOf(s.host).String()}
	c.Edges.Transport = s.transport
	c.Relay.Drain = config.Duration(time.Second)
	c.Control.Socket = b.controlOf(s.host)
	c.Log.Level = slog.LevelWarn
	text, err := toml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return b.write(t, file("bpfacq.toml"), text)
}

// controlOf is where a host's agent is asked.
func (b *bed) controlOf(host byte) string {
	return filepath.Join(b.folder, fmt.Sprintf("host%d-control.sock", host))
}

// write writes a file of the bed's folder and returns its path.
func (b *bed) write(t *testing.T, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(b.folder, name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// profile passes one of the targets' addresses and tunnels the next.
func profile(t *testing.T) []byte {
	t.Helper()
	type object = map[string]any
	rule := func(id, action string, order int, ip netip.Addr) object {
		return object{
			"id": id, "channelId": "bench", "order": order, "action": action, "hardening": "Block",
			"matchingCriteria": object{"address": object{"ips": []string{ip.String()}}, "protocol": "Any"},
		}
	}
	text, err := json.Marshal(object{"policy": object{
		"id": "bench",
		"channels": []object{{
			"id": "bench", "name": "Bench",
			"edgesSettings": object{"primaryEdges": []object{{"edgeAddress": edgeName, "edgePort": portEdge}}},
		}},
		"rules": []object{
			rule("pass", "Bypass", 1, passed),
			rule("acquire", "Tunnel", 2, carried),
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// redirect sends what a host's applications send to the one target to a relay, by
// nft.
func redirect(t *testing.T, ns *netns.Namespace) {
	t.Helper()
	cmd := testutil.Command(t, testutil.Program(t, "nft"), "-f", "-")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`table ip bench {
	chain output {
		type nat hook output priority -100;
		ip daddr %s meta l4proto tcp redirect to :%d
	}
}
`, carried, portRelay))
	if out, err := testutil.Output(t, ns, "", cmd); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
}

// portRelay is where relays of others listen.
const portRelay = 12345

// redsocks is the transparent relay of Debian, with nft REDIRECT. It speaks
// HTTP CONNECT in cleartext only, which bpfacq's edge does not.
func (b *bed) redsocks(t *testing.T) contender {
	t.Helper()
	near := testutil.Netns(t)
	b.join(t, near, 2)
	redirect(t, near)
	path := b.write(t, "redsocks.conf", fmt.Appendf(nil, `
base { log = "stderr"; log_info = off; daemon = off; redirector = iptables; rlimit_nofile = %d; }
redsocks {
	local_ip = 127.0.0.1; local_port = %d; listenq = 4096;
	ip = %s; port = %d; type = http-connect;
}
`, b.flows+10_000, portRelay, edgeOf(2), portPlainEdge))
	plain := startChild(t, b.edges, "", "edge", "plain-edge")
	relay := startProgram(t, near, "", "relay", testutil.Command(t, testutil.Program(t, "redsocks"), "-c", path))
	testutil.WaitListening(t, near, fmt.Sprintf("127.0.0.1:%d", portRelay))
	return contender{
		name: "redsocks", how: "nft REDIRECT, redsocks, HTTP/1 CONNECT in cleartext to a splicing edge",
		application: b.startApplication(t, near, ""), target: carried,
		carriers: []*child{relay, plain, b.targets},
	}
}

// singBox is sing-box with nft REDIRECT and the same TLS edge as the agent's.
func (b *bed) singBox(t *testing.T, path string) contender {
	t.Helper()
	near := testutil.Netns(t)
	b.join(t, near, 3)
	redirect(t, near)
	type object = map[string]any
	text, err := json.Marshal(object{
		"log":      object{"level": "error"},
		"inbounds": []object{{"type": "redirect", "listen": "127.0.0.1", "listen_port": portRelay}},
		"outbounds": []object{{
			"type": "http", "server": edgeOf(3).String(), "server_port": portEdge,
			"tls": object{"enabled": true, "server_name": edgeName, "certificate_path": b.files.Roots},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	edge := startChild(t, b.edges, "", "edge", "edge", netip.AddrPortFrom(edgeOf(3), portEdge).String(),
		b.files.Certificate, b.files.Key, siteNetwork+":*", strconv.Itoa(b.flows))
	relay := startProgram(t, near, "", "relay", testutil.Command(t, path, "run", "-c", b.write(t, "sing-box.json", text)))
	testutil.WaitListening(t, near, fmt.Sprintf("127.0.0.1:%d", portRelay))
	return contender{
		name: "sing-box", how: "nft REDIRECT, sing-box, HTTP/1 CONNECT over TLS 1.3, bpfacq edge",
		application: b.startApplication(t, near, ""), target: carried,
		carriers: []*child{relay, edge, b.targets},
	}
}
