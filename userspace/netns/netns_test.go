package netns_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

func TestMain(m *testing.M) { os.Exit(testutil.Main(m, nil)) }

// identity names the network namespace of the calling thread.
func identity() (string, error) { return os.Readlink("/proc/thread-self/ns/net") }

func TestDoRunsInsideAndNowhereElse(t *testing.T) {
	ns := testutil.Netns(t)
	home, err := identity()
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		var inside string
		if err := ns.Do(func() (err error) { inside, err = identity(); return err }); err != nil {
			t.Fatal(err)
		}
		if inside == home {
			t.Fatal("Do ran in the caller's namespace")
		}
		if after, _ := identity(); after != home {
			t.Fatalf("caller is in %s after Do, want %s", after, home)
		}
	}
}

func TestNoThreadStaysInside(t *testing.T) {
	ns := testutil.Netns(t)
	home, err := identity()
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for range 32 {
		running.Go(func() { ns.Do(func() error { runtime.Gosched(); return nil }) })
	}
	running.Wait()

	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		where, err := os.Readlink("/proc/self/task/" + thread.Name() + "/ns/net")
		if err == nil && where != home {
			t.Errorf("thread %s is in %s, want %s", thread.Name(), where, home)
		}
	}
}

func TestDoReturnsTheErrorAsItIs(t *testing.T) {
	ns := testutil.Netns(t)
	want := errors.New("refuse")
	if err := ns.Do(func() error { return want }); err != want {
		t.Errorf("got %v, want %v", err, want)
	}
}

func TestDoSurvivesAFunctionThatNeverReturns(t *testing.T) {
	ns := testutil.Netns(t)
	err := ns.Do(func() error {
		runtime.Goexit()
		return nil
	})
	if err == nil {
		t.Error("Do reported success")
	}
	if err := ns.Do(func() error { return nil }); err != nil {
		t.Errorf("the namespace cannot be entered again: %v", err)
	}
}

func TestNestedDoEntersTheInnerNamespace(t *testing.T) {
	outer, inner := testutil.Netns(t), testutil.Netns(t)
	var before, within, after string
	err := outer.Do(func() error {
		before, _ = identity()
		err := inner.Do(func() error { within, _ = identity(); return nil })
		after, _ = identity()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if before != after || before == within {
		t.Errorf("before %s, within %s, after %s", before, within, after)
	}
}

func TestClosedNamespaceCannotBeEntered(t *testing.T) {
	testutil.Privileged(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Close(); err != nil {
		t.Fatal(err)
	}
	ran := false
	if err := ns.Do(func() error { ran = true; return nil }); err == nil || ran {
		t.Errorf("got %v, ran %t", err, ran)
	}
	if ns.Fd() != -1 {
		t.Errorf("Fd is %d after Close", ns.Fd())
	}
}

func TestStartedProcessIsInside(t *testing.T) {
	ns := testutil.Netns(t)
	var inside string
	if err := ns.Do(func() (err error) { inside, err = identity(); return err }); err != nil {
		t.Fatal(err)
	}
	var stdout strings.Builder
	cmd := exec.Command("readlink", "/proc/self/ns/net")
	cmd.Stdout = &stdout
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(stdout.String()); got != inside {
		t.Errorf("child is in %s, want %s", got, inside)
	}
}

func TestCookiesTellNamespacesApart(t *testing.T) {
	a, b := testutil.Netns(t), testutil.Netns(t)
	home, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()

	seen := make(map[uint64]bool)
	for _, ns := range []*netns.Namespace{a, b, home} {
		cookie, err := ns.Cookie()
		if errors.Is(err, unix.ENOPROTOOPT) {
			testutil.KernelSince(t, 5, 14, "SO_NETNS_COOKIE")
		}
		if err != nil {
			t.Fatal(err)
		}
		if cookie == 0 || seen[cookie] {
			t.Errorf("cookie %d is zero or taken", cookie)
		}
		seen[cookie] = true
	}
}

func TestNamesAreNotLookedUp(t *testing.T) {
	ns := testutil.Netns(t)
	for _, address := range []string{"localhost:80", "192.0.2.1", "192.0.2.1.:80", ""} {
		if conn, err := ns.DialContext(t.Context(), "tcp", address); err == nil {
			conn.Close()
			t.Errorf("dialed %q", address)
		}
		if listener, err := ns.Listen(t.Context(), "tcp", address); err == nil {
			listener.Close()
			t.Errorf("listened on %q", address)
		}
	}
}

// site is a pair of namespaces, a at 192.0.2.1 and 2001:db8::1, b at …2, and b
// has 198.51.100.9 and 2001:db8:1::9 on its loopback link, to which a has
// routes by gateway.
func site(t *testing.T) (a, b *netns.Namespace) {
	t.Helper()
	a, b = testutil.Netns(t), testutil.Netns(t)
	testutil.Veth(t,
		netns.End{
			Namespace: a, Name: "east",
			Addrs: prefixes("192.0.2.1/24", "2001:db8::1/64"),
			Routes: []netns.Route{
				{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Via: netip.MustParseAddr("192.0.2.2")},
				{Prefix: netip.MustParsePrefix("2001:db8:1::/48"), Via: netip.MustParseAddr("2001:db8::2")},
				{Prefix: netip.MustParsePrefix("203.0.113.0/24")},
			},
		},
		netns.End{Namespace: b, Name: "west", Addrs: prefixes("192.0.2.2/24", "2001:db8::2/64")},
	)
	for _, addr := range prefixes("198.51.100.9/32", "2001:db8:1::9/128") {
		if err := b.AddAddr("lo", addr); err != nil {
			t.Fatal(err)
		}
	}
	return a, b
}

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func TestVethCarriesBothFamilies(t *testing.T) {
	a, b := site(t)
	for _, host := range []string{"192.0.2.2", "2001:db8::2", "198.51.100.9", "2001:db8:1::9"} {
		addr := testutil.Banner(t, b, net.JoinHostPort(host, "0"), host)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		conn, err := a.DialContext(ctx, "tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		conn.(*net.TCPConn).CloseWrite()
		if got, err := io.ReadAll(conn); string(got) != host || err != nil {
			t.Errorf("from %s: got %q, %v", host, got, err)
		}
		conn.Close()
	}
}

func TestDatagramsStayInTheirNamespace(t *testing.T) {
	a, b := site(t)
	receiver, err := b.ListenPacket(t.Context(), "udp", "192.0.2.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer receiver.Close()
	sender, err := a.DialContext(t.Context(), "udp", receiver.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	if _, err := io.WriteString(sender, "ping"); err != nil {
		t.Fatal(err)
	}
	receiver.SetReadDeadline(time.Now().Add(10 * time.Second))
	var packet [16]byte
	n, from, err := receiver.ReadFrom(packet[:])
	if err != nil || string(packet[:n]) != "ping" || from.String() != sender.LocalAddr().String() {
		t.Errorf("got %q from %v, %v", packet[:n], from, err)
	}
}

func TestVethThatFailsLeavesNothing(t *testing.T) {
	a, b := testutil.Netns(t), testutil.Netns(t)
	before := [...]string{testutil.HostState(t, a).Links, testutil.HostState(t, b).Links}
	far := []netns.Route{{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Via: netip.MustParseAddr("192.0.2.99")}}

	err := netns.Veth(
		netns.End{Namespace: a, Name: "east"},
		netns.End{Namespace: b, Name: "west", Routes: far},
	)
	if err == nil || !strings.Contains(err.Error(), "198.51.100.0/24") {
		t.Errorf("got %v, want the route that has no gateway", err)
	}
	after := [...]string{testutil.HostState(t, a).Links, testutil.HostState(t, b).Links}
	if before != after {
		t.Errorf("links before %q, after %q", before, after)
	}
}

func TestSnapshotShowsEachKindOfChange(t *testing.T) {
	a, _ := site(t)
	run := func(name string, args ...string) func() error {
		return func() error {
			if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %s", name, err, out)
			}
			return nil
		}
	}
	before := testutil.HostState(t, a)
	unchanged := func(t *testing.T) {
		t.Helper()
		if diff := before.Diff(testutil.HostState(t, a)); diff != "" {
			t.Fatalf("untouched namespace differs:\n%s", diff)
		}
	}
	unchanged(t)
	for _, test := range []struct {
		name, want   string
		change, back func() error
	}{
		{"link", "links:\n- ", run("ip", "link", "set", "east", "mtu", "1400"), run("ip", "link", "set", "east", "mtu", "1500")},
		{"address", "addresses:\n+ link", run("ip", "addr", "add", "192.0.2.77/32", "dev", "lo"), run("ip", "addr", "del", "192.0.2.77/32", "dev", "lo")},
		{"route", "routes:\n+ {Ifindex", run("ip", "route", "add", "10.9.0.0/16", "dev", "east", "table", "77"), run("ip", "route", "del", "10.9.0.0/16", "dev", "east", "table", "77")},
		{"IPv6 route", "routes:\n+ {Ifindex", run("ip", "route", "add", "2001:db8:9::/48", "dev", "east"), run("ip", "route", "del", "2001:db8:9::/48", "dev", "east")},
		{"rule", "rules:\n+ {", run("ip", "rule", "add", "fwmark", "7", "lookup", "77"), run("ip", "rule", "del", "fwmark", "7", "lookup", "77")},
		{"nft table", "nftables:\n+ ", run("nft", "add", "table", "inet", "own"), run("nft", "delete", "table", "inet", "own")},
		{"sysctl", "sysctls:\n- ipv4/tcp_sack = 1\n+ ipv4/tcp_sack = 0\n", write("ipv4/tcp_sack", "0"), write("ipv4/tcp_sack", "1")},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := a.Do(test.change); err != nil {
				t.Fatal(err)
			}
			if diff := before.Diff(testutil.HostState(t, a)); !strings.Contains(diff, test.want) {
				t.Errorf("diff %q lacks %q", diff, test.want)
			}
			if err := a.Do(test.back); err != nil {
				t.Fatal(err)
			}
		})
	}
	unchanged(t)
}

func write(sysctl, value string) func() error {
	return func() error { return os.WriteFile("/proc/sys/net/"+sysctl, []byte(value), 0) }
}

func TestHostIsUntouched(t *testing.T) {
	testutil.Unchanged(t, nil)
	site(t)
}

func TestDiffNamesOnlyWhatDiffers(t *testing.T) {
	base := netns.Snapshot{Routes: "a\nb\n", Resolver: "x\ny\n"}
	for _, test := range []struct {
		name  string
		later netns.Snapshot
		want  string
	}{
		{"equal", base, ""},
		{"one more", netns.Snapshot{Routes: "a\nb\nc\n", Resolver: "x\ny\n"}, "routes:\n+ c\n"},
		{"one less", netns.Snapshot{Routes: "b\n", Resolver: "x\ny\n"}, "routes:\n- a\n"},
		{"twice", netns.Snapshot{Routes: "a\na\nb\n", Resolver: "x\ny\n"}, "routes:\n+ a\n"},
		{"other order", netns.Snapshot{Routes: "a\nb\n", Resolver: "y\nx\n"}, "resolver:\n"},
	} {
		if got := base.Diff(test.later); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}
