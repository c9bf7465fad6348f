package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// dnsSocketsScenario opens the sockets on which an agent receives queries, in its
// own cgroup, prints the first port and the descriptors, and holds them open. Its
// argument is their family, 6 for both.
func dnsSocketsScenario(args []string, stdout io.Writer) error {
	for port := 20000; port < 60000; port += maps.DNSPorts {
		fds, err := dnsSockets(args[0], port)
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(stdout, port, strings.Trim(fmt.Sprint(fds), "[]")); err != nil {
			return err
		}
		for {
			unix.Pause() // until it is killed
		}
	}
	return unix.EADDRINUSE
}

func dnsSockets(family string, port int) (fds []int, err error) {
	for i := range maps.DNSPorts {
		fd, err := dnsSocket(family, port+i)
		if err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
			return nil, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// dnsSocket takes only what loopback delivers.
func dnsSocket(family string, port int) (fd int, err error) {
	domain, bind := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: port})
	if family == "4" {
		domain, bind = unix.AF_INET, &unix.SockaddrInet4{Port: port}
	}
	if fd, err = unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0xfffff000 + 8}, // SKF_AD_OFF + SKF_AD_IFINDEX
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	if domain == unix.AF_INET6 {
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1),
		)
	}
	return fd, errors.Join(err,
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1),
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.Bind(fd, bind),
	)
}

// resolver is the agent's end of queries: it answers each datagram with what the
// kernel knows of it.
type resolver struct {
	port uint16
	fds  []int
}

// startResolver starts a resolver in the bed's cgroup and announces it.
func (b *bed) startResolver(t testing.TB) *resolver {
	t.Helper()
	r := b.openResolver(t, b.cgroup, "6")
	if err := b.datapath.Maps.SetDNS(r.port, r.port, pools()); err != nil {
		t.Fatal(err)
	}
	return r
}

func (b *bed) openResolver(t testing.TB, cgroup, family string) *resolver {
	t.Helper()
	cmd := testutil.ScenarioCommand(t, "dns-sockets", family)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	testutil.Start(t, b.ns, cgroup, cmd)
	r := &resolver{fds: make([]int, maps.DNSPorts)}
	words := []any{&r.port}
	for i := range r.fds {
		words = append(words, &r.fds[i])
	}
	if _, err := fmt.Fscan(stdout, words...); err != nil {
		t.Fatalf("read ports of the resolver: %v", err)
	}

	// A socket belongs to the cgroup where it was made, whoever uses it.
	pidfd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	var all sync.WaitGroup
	for i, fd := range r.fds {
		if r.fds[i], err = unix.PidfdGetfd(pidfd, fd, 0); err != nil {
			t.Fatal(err)
		}
		if err := b.datapath.Maps.Stamp(r.fds[i]); err != nil {
			t.Fatal(err)
		}
		all.Go(func() { answerQueries(t, b.datapath.Maps, r.fds[i]) })
	}
	t.Cleanup(func() {
		for _, fd := range r.fds {
			unix.Shutdown(fd, unix.SHUT_RD) // ENOTCONN, and yet it wakes the reader
		}
		all.Wait()
		for _, fd := range r.fds {
			unix.Close(fd)
		}
	})
	return r
}

// answerQueries answers on one socket until it is shut down.
func answerQueries(t testing.TB, m *maps.Maps, fd int) {
	for {
		buf, control := make([]byte, 512), make([]byte, 128)
		n, oobn, _, from, err := unix.Recvmsg(fd, buf, control, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		text := "nobody knows"
		q, err := m.Query(fd)
		if err == nil {
			text = queryText(q)
		} else if !errors.Is(err, maps.ErrNoRecord) {
			t.Error(err)
		}
		if err := unix.Sendmsg(fd, []byte(text), answerFrom(control[:oobn]), from, 0); err != nil {
			t.Errorf("answer %v: %v", addrPortOf(from), err)
		}
	}
}

func queryText(q flow.Query) string {
	return fmt.Sprintf("server %s pid %d uid %d asker %t device %d mark %d", q.Server, q.PID, q.UID, q.HasAsker, q.Device, q.Mark)
}

// answerFrom is the control message that answers from where a datagram came to,
// by whatever device.
func answerFrom(control []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO:
			return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte(m.Data[8:12])})
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO:
			return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: [16]byte(m.Data[:16])})
		}
	}
	return nil
}

// pools are where synthetic addresses of these tests lie.
func pools() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("6.6.0.0/16"), netip.MustParsePrefix("fd66::/64")}
}

// The addresses of the two ends of the beds' wire.
const (
	near4, near6 = "192.0.2.1", "2001:db8:1::1"
	far4, far6   = "192.0.2.2", "2001:db8:1::2"
)

// wire connects the bed's namespace with another one, which everything beyond
// is reached through. There servers answer "direct" at several ports.
func (b *bed) wire(t testing.TB) *netns.Namespace {
	t.Helper()
	other := testutil.Netns(t)
	ends := func(v4, v6 string) []netip.Prefix {
		return []netip.Prefix{netip.MustParsePrefix(v4 + "/24"), netip.MustParsePrefix(v6 + "/64")}
	}
	testutil.Veth(t, netns.End{Namespace: b.ns, Name: "up0", Addrs: ends(near4, near6)},
		netns.End{Namespace: other, Name: "up0", Addrs: ends(far4, far6)})
	for _, far := range []string{far4, far6} {
		for _, port := range []string{"53", "80", "443"} {
			respondDatagrams(t, other, net.JoinHostPort(far, port))
			testutil.Respond(t, other, net.JoinHostPort(far, port), func(c *net.TCPConn) { c.Write([]byte("direct\n")) })
		}
	}
	return other
}

func respondDatagrams(t testing.TB, ns *netns.Namespace, address string) {
	t.Helper()
	conn, err := ns.ListenPacket(t.Context(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		buf := make([]byte, 512)
		for {
			_, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			conn.WriteTo([]byte("direct"), from)
		}
	})
	t.Cleanup(func() {
		conn.Close()
		all.Wait()
	})
}

// known is what the resolver answers of a query of the scenario's process.
func known(server string, device, mark int) string {
	return fmt.Sprintf("%s says server %s own pid uid 0 asker true device %d mark %d", server, server, device, mark)
}

// askerless is what it answers where only the device is known.
func askerless(server string, device int) string {
	return fmt.Sprintf("%s says server %s pid 0 uid 0 asker false device %d mark 0", server, server, device)
}

// setDevice tells the programs of the bed's end of the wire.
func (b *bed) setDevice(t testing.TB) (index int) {
	t.Helper()
	index = b.index(t, "up0")
	err := b.datapath.Maps.SetDevice(index, netip.MustParseAddr(near4), netip.MustParseAddr(near6))
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func (b *bed) index(t testing.TB, name string) (index int) {
	t.Helper()
	err := b.ns.Do(func() (err error) {
		index, err = interfaceIndex(name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func interfaceIndex(name string) (int, error) {
	device, err := net.InterfaceByName(name)
	if err != nil {
		return 0, err
	}
	return device.Index, nil
}

// mapped is how an AF_INET6 socket has an IPv4 address.
func mapped(text string) string {
	addr := netip.MustParseAddrPort(text)
	return netip.AddrPortFrom(netip.AddrFrom16(addr.Addr().As16()), addr.Port()).String()
}

func TestQueriesReachTheAgentWithTheirServer(t *testing.T) {
	b := newBed(t)
	b.wire(t)
	b.startResolver(t)
	device := b.setDevice(t)
	const one4, two4, one6, two6 = "198.51.100.1:53", "198.51.100.2:53", "[2001:db8::1]:53", "[2001:db8::2]:53"
	tests := []struct {
		name, socket string
		steps        []string
		want         []string
		queries      map[string]uint64
	}{
		{"connected IPv4", "udp4,mark", []string{"connect=" + one4, "peer", "write", "read"},
			[]string{"connected", "peer " + one4, "written", known(one4, 0, 77)},
			map[string]uint64{"acquire_query": 1, "query_known": 1}},
		{"connected IPv6", "udp6,mark", []string{"connect=" + one6, "peer", "write", "read"},
			[]string{"connected", "peer " + one6, "written", known(one6, 0, 77)},
			map[string]uint64{"acquire_query": 1, "query_known": 1}},
		{"several servers", "udp4", []string{"ask=" + one4, "ask=" + two4, "ask=" + one4},
			[]string{known(one4, 0, 0), known(two4, 0, 0), known(one4, 0, 0)},
			map[string]uint64{"acquire_query": 3, "query_known": 3}},
		{"answers of several servers", "udp4", []string{"send=" + one4, "read", "send=" + two4, "read"},
			[]string{"sent", known(one4, 0, 0), "sent", known(two4, 0, 0)},
			map[string]uint64{"acquire_query": 2, "query_known": 2}},
		{"a platform's resolver", "udp4", []string{"ask=169.254.169.253:53"}, []string{known("169.254.169.253:53", 0, 0)},
			map[string]uint64{"acquire_query": 1, "query_known": 1}},
		{"bound to a source address", "udp4,source=" + near4 + ":0", []string{"ask=" + one4, "connect=" + two4, "write", "read"},
			[]string{known(one4, 0, 0), "connected", "written", known(two4, 0, 0)},
			map[string]uint64{"acquire_query": 2, "query_known": 2}},
		{"bound to an IPv6 source address", "udp6,source=[" + near6 + "]:0", []string{"ask=" + one6, "connect=" + two6, "write", "read"},
			[]string{known(one6, 0, 0), "connected", "written", known(two6, 0, 0)},
			map[string]uint64{"acquire_query": 2, "query_known": 2}},
		{"bound to a port", "udp4,source=0.0.0.0:40053", []string{"ask=" + one4}, []string{known(one4, 0, 0)},
			map[string]uint64{"acquire_query": 1, "query_known": 1}},
		{"bound to a device while it connects", "udp4,leave-by=up0,device=up0,mark",
			[]string{"connect=" + one4, "unbind", "write", "read", "peer"},
			[]string{"connected", "unbound", "written", known(one4, device, 77), "peer " + one4},
			map[string]uint64{"acquire_query": 1, "query_known": 1}},
		{"bound to a device while it connects by IPv6", "udp6,leave-by=up0,device=up0",
			[]string{"connect=" + one6, "unbind", "write", "read"},
			[]string{"connected", "unbound", "written", known(one6, device, 0)},
			map[string]uint64{"acquire_query": 1, "query_known": 1}},
		{"bound to a device for good", "udp4,device=up0", []string{"ask=" + one4, "connect=" + two4, "write", "read"},
			[]string{askerless(one4, device), "connected", "written", askerless(two4, device)},
			map[string]uint64{"acquire_query": 2, "query_askerless": 2}},
		{"bound to a device for good by IPv6", "udp6,device=up0", []string{"ask=" + one6, "connect=" + two6, "write", "read"},
			[]string{askerless(one6, device), "connected", "written", askerless(two6, device)},
			map[string]uint64{"acquire_query": 2, "query_askerless": 2}},
		{"a link-local server", "udp6,device=up0", []string{"connect=[fe80::53]:53", "peer", "write", "read"},
			[]string{"connected", "peer [fe80::53]:53", "written", askerless("[fe80::53]:53", device)},
			map[string]uint64{"acquire_query": 1, "query_askerless": 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := b.counters(t, nil)
			got := b.exchange(t, test.socket, test.steps...)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.queries, b.counters(t, before)); diff != "" {
				t.Errorf("counters:\n%s", diff)
			}
		})
	}
}

// A host without IPv6 has no AF_INET6 sockets.
func TestAgentOfIPv4AloneReceivesQueries(t *testing.T) {
	b := newBed(t)
	b.wire(t)
	r := b.openResolver(t, b.cgroup, "4")
	if err := b.datapath.Maps.SetDNS(r.port, 0, nil); err != nil {
		t.Fatal(err)
	}
	const server4, server6 = "198.51.100.1:53", "[" + far6 + "]:53"
	want := []string{known(server4, 0, 0)}
	if diff := cmp.Diff(want, b.exchange(t, "udp4", "ask="+server4)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	before := b.counters(t, nil)
	want = []string{server6 + " says direct"}
	if diff := cmp.Diff(want, b.exchange(t, "udp6", "ask="+server6)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]uint64{"pass_query_unserved": 1}, b.counters(t, before)); diff != "" {
		t.Errorf("counters:\n%s", diff)
	}
}

// The hook that finds out who sent a query runs for the cgroup of the agent.
func TestAgentOfAnotherCgroupReceivesQueries(t *testing.T) {
	b := &bed{
		ns:     testutil.Netns(t),
		cgroup: testutil.Cgroup(t),
		pins:   filepath.Join(testutil.BPFFS(t), "bpfacq"),
	}
	relayCgroup := testutil.Cgroup(t)
	b.load(t, loader.Options{RelayCgroup: relayCgroup})
	b.announce(t, maps.Agent{})
	r := b.openResolver(t, relayCgroup, "6")
	if err := b.datapath.Maps.SetDNS(r.port, r.port, nil); err != nil {
		t.Fatal(err)
	}
	const server = "198.51.100.1:53"
	want := []string{known(server, 0, 0)}
	if diff := cmp.Diff(want, b.exchange(t, "udp4", "ask="+server)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// A socket that was taken stays so while one agent takes over from another, and
// gets its answers from the next one's sockets when it asks again.
func TestNextAgentTakesTheQueriesOver(t *testing.T) {
	b := newBed(t)
	first := b.startResolver(t)
	const server = "198.51.100.1:53"
	want := []string{known(server, 0, 0)}
	if diff := cmp.Diff(want, b.exchange(t, "udp4", "ask="+server)); diff != "" {
		t.Errorf("first (-want +got):\n%s", diff)
	}
	if err := b.datapath.Close(); err != nil {
		t.Fatal(err)
	}
	b.load(t, loader.Options{})
	if !b.datapath.TookOver {
		t.Error("the second agent did not take over")
	}
	second := b.startResolver(t)
	if first.port == second.port {
		t.Errorf("both agents listen at port %d", first.port)
	}
	if diff := cmp.Diff(want, b.exchange(t, "udp4", "ask="+server)); diff != "" {
		t.Errorf("second (-want +got):\n%s", diff)
	}
}

// musl asks all servers of both families from one AF_INET6 socket.
func TestOneSocketAsksServersOfBothFamilies(t *testing.T) {
	b := newBed(t)
	b.startResolver(t)
	servers := []string{"198.51.100.1:53", "198.51.100.2:53", "[2001:db8::1]:53"}
	var steps, want []string
	for _, server := range slices.Concat(servers, servers) {
		steps = append(steps, "ask="+server)
		want = append(want, strings.Replace(known(server, 0, 0), server, mapped(server), 1))
	}
	if diff := cmp.Diff(want, b.exchange(t, "udp6", steps...)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// Never a wrong server: a query that cannot be told apart goes where it was sent.
func TestTooManyServersOfOneSocketPassUntouched(t *testing.T) {
	for _, socket := range []string{"udp4", "udp4,device=up0"} {
		t.Run(socket, func(t *testing.T) {
			b := newBed(t)
			b.wire(t)
			b.startResolver(t)
			device := b.setDevice(t)
			var steps, want []string
			for i := range maps.DNSPorts {
				server := fmt.Sprintf("198.51.100.%d:53", i+1)
				steps = append(steps, "ask="+server)
				if strings.Contains(socket, "device") {
					want = append(want, askerless(server, device))
				} else {
					want = append(want, known(server, 0, 0))
				}
			}
			steps = append(steps, "ask="+far4+":53", steps[0])
			want = append(want, far4+":53 says direct", want[0])
			before := b.counters(t, nil)
			if diff := cmp.Diff(want, b.exchange(t, socket, steps...)); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			counters := b.counters(t, before)
			if counters["pass_query_crowded"] != 1 || counters["acquire_query"] != uint64(maps.DNSPorts)+1 {
				t.Errorf("counters: %v", counters)
			}
		})
	}
}

// Two sockets that are connected to different servers from the same port would
// both be connected to the same socket of the agent.
func TestSocketsThatShareAPortAreToldApart(t *testing.T) {
	b := newBed(t)
	b.wire(t)
	b.startResolver(t)
	const server = "198.51.100.1:53"
	got := b.exchange(t, "udp4,reuse,source=0.0.0.0:40055",
		"connect="+server, "write", "read", "twin="+far4+":53", "write", "read", "connect="+server, "write", "read")
	want := []string{
		"connected", "written", known(server, 0, 0),
		far4 + ":53 says direct",
		"written", known(server, 0, 0),
		"connected", "written", known(server, 0, 0),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestDatagramsThatAreNoQueriesPassUntouched(t *testing.T) {
	b := newBed(t)
	other := b.wire(t)
	b.startResolver(t)
	respondDatagrams(t, b.ns, "127.0.0.1:53")
	respondDatagrams(t, b.ns, "[::1]:53")
	const to4, to6 = far4 + ":53", "[" + far6 + "]:53"
	const direct4, direct6 = to4 + " says direct", to6 + " says direct"
	tests := []struct {
		name, socket string
		ns           *netns.Namespace
		cgroup       string
		steps, want  []string
		counts       map[string]uint64
	}{
		{"a loopback stub", "udp4", b.ns, b.cgroup, []string{"ask=127.0.0.1:53", "connect=127.0.0.1:53"},
			[]string{"127.0.0.1:53 says direct", "connected"}, map[string]uint64{}},
		{"an IPv6 loopback stub", "udp6", b.ns, b.cgroup, []string{"ask=[::1]:53"},
			[]string{"[::1]:53 says direct"}, map[string]uint64{}},
		{"another port", "udp4", b.ns, b.cgroup, []string{"ask=" + far4 + ":443", "connect=" + far4 + ":80", "peer"},
			[]string{far4 + ":443 says direct", "connected", "peer " + far4 + ":80"}, map[string]uint64{}},
		{"another namespace", "udp4", other, b.cgroup, []string{"ask=" + to4, "connect=" + to4},
			[]string{direct4, "connected"}, map[string]uint64{"pass_foreign_netns": 2}},
		{"another cgroup", "udp4", b.ns, "", []string{"ask=" + to4}, []string{direct4}, map[string]uint64{}},
		{"a device without address", "udp4,device=up0", b.ns, b.cgroup, []string{"ask=" + to4},
			[]string{direct4}, map[string]uint64{"pass_query_device": 1}},
		{"from a server's port", "udp4,source=" + near4 + ":53", b.ns, b.cgroup, []string{"ask=" + to4, "connect=" + to4, "write", "read"},
			[]string{direct4, "connected", "written", direct4}, map[string]uint64{"pass_query_server": 2}},
		{"a link-local server of no device", "udp6", b.ns, b.cgroup, []string{"connect=[fe80::53]:53"},
			[]string{"EINVAL"}, map[string]uint64{"pass_query_scope": 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := b.counters(t, nil)
			out := testutil.Child(t, test.ns, test.cgroup, "datagram", append([]string{test.socket}, test.steps...)...)
			if diff := cmp.Diff(test.want, strings.Split(strings.TrimSuffix(out, "\n"), "\n")); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.counts, b.counters(t, before)); diff != "" {
				t.Errorf("counters:\n%s", diff)
			}
		})
	}

	t.Run("no agent", func(t *testing.T) {
		if err := b.datapath.Maps.EndLease(); err != nil {
			t.Fatal(err)
		}
		before := b.counters(t, nil)
		want := []string{direct6, "connected", "peer " + to6}
		if diff := cmp.Diff(want, b.exchange(t, "udp6", "ask="+to6, "connect="+to6, "peer")); diff != "" {
			t.Errorf("lines (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]uint64{"pass_query_unserved": 2}, b.counters(t, before)); diff != "" {
			t.Errorf("counters:\n%s", diff)
		}
	})
}

// A socket that goes on to speak with somebody else forgets whom it asked.
func TestConnectForgetsTheServersOfItsSocket(t *testing.T) {
	b := newBed(t)
	b.wire(t)
	r := b.startResolver(t)
	const server, other = "198.51.100.1:53", "198.51.100.2:53"
	agent := fmt.Sprintf("127.0.0.1:%d", r.port)
	got := b.exchange(t, "udp4", "connect="+server, "peer", "connect="+agent, "peer", "write", "read", "connect="+other, "peer", "write", "read")
	want := []string{
		"connected", "peer " + server, "connected", "peer " + agent, "written", agent + " says nobody knows",
		"connected", "peer " + other, "written", known(other, 0, 0),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestQueriesOverTCPReachTheListener(t *testing.T) {
	b := newBed(t)
	b.wire(t)
	const to4, to6, direct = far4 + ":53", "[" + far6 + "]:53", "direct\n"
	ask := func(way, to string) string { return testutil.Child(t, b.ns, b.cgroup, "connect", way, to) }
	if got, want := ask("plain", to4), "peer "+to4+" to direct\n"; got != want {
		t.Errorf("no resolver: got %q, want %q", got, want)
	}
	b.startResolver(t)
	tests := []struct {
		way, to, want string
		counts        map[string]uint64
	}{
		{"plain", to4, "peer " + to4 + " to " + to4 + " query\n", queriedOverTCP()},
		{"plain", to6, "peer " + to6 + " to " + to6 + " query\n", queriedOverTCP()},
		{"mapped", to4, "peer " + mapped(to4) + " to " + to4 + " query\n", queriedOverTCP()},
		{"fastopen", to4, "peer " + to4 + " to " + to4 + " query\n", queriedOverTCP()},
		{"source=" + near4 + ":0", to4, "peer " + to4 + " to direct\n", map[string]uint64{"pass_inactive": 1}},
		{"device=up0", to4, "peer " + to4 + " to direct\n", map[string]uint64{"pass_inactive": 1}},
	}
	for _, test := range tests {
		t.Run(test.way+" "+test.to, func(t *testing.T) {
			before := b.counters(t, nil)
			if got := ask(test.way, test.to); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if diff := cmp.Diff(test.counts, b.counters(t, before)); diff != "" {
				t.Errorf("counters:\n%s", diff)
			}
		})
	}
}

func queriedOverTCP() map[string]uint64 {
	return map[string]uint64{"acquire_query": 1, "handoff_offered": 1, "handoff_taken": 1}
}
