package bench

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// Hosts with containers: one without an agent, one with, and two more of which the
// agents have HTTP/3 or are of another build.
const (
	hostPlain   = 5
	hostPackets = 6
	hostQUIC    = 7
	hostOther   = 8
)

// packetHost is a host with a container that is hidden behind it.
type packetHost struct {
	near, container *netns.Namespace
}

func (b *bed) packetHost(t *testing.T, host byte) packetHost {
	t.Helper()
	h := packetHost{near: testutil.Netns(t), container: testutil.Netns(t)}
	b.join(t, h.near, host)
	inside := netip.AddrFrom4([4]byte{10, 8, host, 1})
	testutil.Veth(t,
		netns.End{Namespace: h.near, Name: "ct0", Addrs: []netip.Prefix{netip.PrefixFrom(inside, 24)}},
		netns.End{
			Namespace: h.container, Name: "eth0", Addrs: []netip.Prefix{netip.PrefixFrom(inside.Next(), 24)},
			Routes: []netns.Route{{Prefix: netip.MustParsePrefix(siteNetwork), Via: inside}},
		})
	tune(t, h.near, map[string]string{"ip_forward": "1"})
	reusePorts(t, h.container)
	cmd := testutil.Command(t, testutil.Program(t, "nft"), "-f", "-")
	cmd.Stdin = strings.NewReader(`table ip hidden {
	chain leave {
		type nat hook postrouting priority 100;
		oifname up0 masquerade
	}
}
`)
	if out, err := testutil.Output(t, h.near, "", cmd); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	return h
}

// packetContenders are those of the packet path, by where their applications are.
func (b *bed) packetContenders(t *testing.T) map[string][]contender {
	t.Helper()
	plain := b.packetHost(t, hostPlain)
	all := make(map[string][]contender)
	for place, ns := range map[string]*netns.Namespace{"container": plain.container, "host": plain.near} {
		all[place] = []contender{{
			name: "direct", application: b.startApplication(t, ns, ""), target: passed, carriers: []*child{b.targets},
		}}
	}
	b.addAcquired(t, all, "acquired", setting{host: hostPackets, transport: config.TransportAuto})
	b.addAcquired(t, all, "by HTTP/3", setting{host: hostQUIC, transport: config.TransportHTTP3})
	if *against != "" {
		b.addAcquired(t, all, "other", setting{host: hostOther, transport: config.TransportAuto, binary: *against})
	}
	return all
}

// addAcquired adds a host whose agent acquires packets, and, of the first, what
// passes it.
func (b *bed) addAcquired(t *testing.T, all map[string][]contender, name string, s setting) {
	t.Helper()
	h := b.packetHost(t, s.host)
	s.cgroup, s.uplinks = testutil.Cgroup(t), []string{config.UplinksAuto}
	agent, edge := b.carriers(t, h.near, s)
	inside := filepath.Join(s.cgroup, "container")
	if err := os.Mkdir(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	for place, application := range map[string]*child{
		"container": b.startApplication(t, h.container, inside),
		"host":      b.startApplication(t, h.near, s.cgroup),
	} {
		if s.host == hostPackets {
			all[place] = append(all[place], contender{
				name: "bypassed", application: application, target: passed, carriers: []*child{b.targets},
			})
		}
		all[place] = append(all[place], contender{
			name: name, application: application, target: carried, carriers: []*child{agent, edge, b.targets},
		})
	}
}

// packetComparisons are what is compared on the packet path. What datagrams take
// of the processors is counted for what was delivered.
func packetComparisons() []comparison {
	const gigabyte = 1e9
	rate := func(a answer) float64 { return a.Count / a.Elapsed.Seconds() }
	megabits := func(a answer) float64 { return rate(a) * 8 / 1e6 }
	microseconds := func(a answer) float64 { return a.Median.Seconds() * 1e6 }
	packets := func(size int) func(answer) float64 {
		return func(a answer) float64 { return rate(a) / float64(size) / 1e3 }
	}
	const small, large, single = 200, 1400, 1
	of := func(do string, size, train int) order { return order{Do: do, Counter: size, Flows: train} }
	return []comparison{
		{
			Name: "TCP, one flow down", Unit: "Mbit/s", Per: "GB", value: megabits, per: gigabyte,
			order: order{Do: "download", Flows: 1}, warms: true, port: portSource,
		},
		{
			Name: "TCP, one flow up", Unit: "Mbit/s", Per: "GB", value: megabits, per: gigabyte,
			order: order{Do: "upload", Flows: 1}, warms: true, port: portSink,
		},
		{
			Name: "UDP, one datagram", Unit: "µs", Per: "round trip", value: microseconds, per: 1,
			order: of("datagram trips", small, single), warms: true, port: portEcho,
		},
		{
			Name: "UDP, 200 B up", Unit: "1000/s", Per: "datagram", value: packets(small), per: small,
			order: of("datagrams up", small, single), warms: true, port: portSink,
		},
		{
			Name: "UDP, 200 B down", Unit: "1000/s", Per: "datagram", value: packets(small), per: small,
			order: of("datagrams down", small, single), warms: true, port: portSource,
		},
		{
			Name: "UDP, trains of 1400 B up", Unit: "Mbit/s", Per: "GB", value: megabits, per: gigabyte,
			order: of("datagrams up", large, maxTrain), warms: true, port: portSink,
		},
		{
			Name: "UDP, trains of 1400 B down", Unit: "Mbit/s", Per: "GB", value: megabits, per: gigabyte,
			order: of("datagrams down", large, maxTrain), warms: true, port: portSource,
		},
	}
}

// wantedPackets are those of them that are to be measured, at each place.
func wantedPackets() (wanted []comparison) {
	for _, place := range []string{"container", "host"} {
		for _, c := range packetComparisons() {
			if place == "host" && strings.Contains(c.Name, "TCP") {
				continue // TCP of the host goes by the socket path
			}
			c.place, c.Name = place, fmt.Sprintf("%s: %s", place, c.Name)
			if strings.Contains("packets, "+c.Name, *only) {
				wanted = append(wanted, c)
			}
		}
	}
	return wanted
}

// comparePackets measures the packet path.
func (b *bed) comparePackets(t *testing.T, wanted []comparison, p pace) []comparison {
	t.Helper()
	all := b.packetContenders(t)
	p.rounds = (p.rounds + 1) / 2 // of twice as many comparisons
	var done []comparison
	for _, c := range wanted {
		done = append(done, compare(t, all[c.place], c, p))
	}
	flows, err := control.NewClient(b.controlOf(hostPackets)).Flows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, protocol := range []flow.Protocol{flow.TCP, flow.UDP} {
		if !slices.ContainsFunc(wanted, func(c comparison) bool { return strings.Contains(c.Name, strings.ToUpper(protocol.String())) }) {
			continue
		}
		carried := func(f flow.Flow) bool { return f.Protocol == protocol && f.Source.IsValid() && f.BytesReceived > 0 }
		if !slices.ContainsFunc(flows.Flows, carried) {
			t.Errorf("no flow of %s was carried: what was measured went direct", protocol)
		}
	}
	return done
}
