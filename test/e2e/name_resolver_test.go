package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

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
			if again, err := m.Query(fd); !errors.Is(err, maps.ErrNoRecord) {
				t.Errorf("the next datagram would be that of %s: %v", queryText(again), err)
			}
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
