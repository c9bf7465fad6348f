package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
)

// listenerScenario listens at an address, prints its port and answers "direct".
// With a second argument the kernel makes a connection only when data has come.
func listenerScenario(args []string, stdout io.Writer) error {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		if len(args) == 1 {
			return nil
		}
		var err error
		ctlErr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 60) })
		return errors.Join(ctlErr, err)
	}}
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), "tcp", args[0])
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(stdout, l.Addr().(*net.TCPAddr).Port); err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		io.WriteString(conn, "direct\n")
		conn.Close()
	}
}

// startListener starts a listener of another program in the bed's cgroup, where
// the hooks see it, and returns its port.
func (b *bed) startListener(t *testing.T, args ...string) uint16 {
	t.Helper()
	cmd := testutil.ScenarioCommand(t, "listener", args...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	testutil.Start(t, b.ns, b.cgroup, cmd)
	var port uint16
	if _, err := fmt.Fscan(stdout, &port); err != nil {
		t.Fatal(err)
	}
	return port
}

// abortScenario makes the given number of connections to an address, and resets
// each as soon as it is there.
func abortScenario(args []string, _ io.Writer) error {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	for range count {
		conn, err := net.DialTimeout("tcp", args[0], ioTimeout)
		if err != nil {
			return err
		}
		if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
			return err
		}
		if err := conn.Close(); err != nil {
			return err
		}
	}
	return nil
}

// A client may hold a connection for made that its listener never gets to see.
// Its record must not stay for a successor with the same ports, nor fill the map.
func TestClientThatItsListenerNeverSawLeavesNoRecord(t *testing.T) {
	b := newBed(t)
	b.apply(t, tunnel("192.168.11.0/24"))
	b.announce(t, maps.Agent{Port4: b.startListener(t, "127.0.0.1:0", "deferred")})
	testutil.Child(t, b.ns, b.cgroup, "abort", "192.168.11.1:80", "20")

	want := map[string]uint64{"acquire": 20, "handoff_offered": 20, "handoff_withdrawn": 20}
	if diff := cmp.Diff(want, b.counters(t, nil)); diff != "" {
		t.Errorf("counters:\n%s", diff)
	}
	if n := b.handoffs(t); n != 0 {
		t.Errorf("%d records left in the handoff", n)
	}
}

func TestPortOfTheListenerBelongsToOthersElsewhere(t *testing.T) {
	b := newBed(t)
	b.apply(t, tunnel("192.168.11.0/24"))
	for _, place := range []string{"127.0.0.2", "::1"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(place), b.port4).String()
		b.startListener(t, to)
		before := b.counters(t, nil)
		if got, want := testutil.Child(t, b.ns, b.cgroup, "connect", "plain", to), "peer "+to+" to direct\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if diff := cmp.Diff(map[string]uint64{"pass_never_acquired": 1}, b.counters(t, before)); diff != "" {
			t.Errorf("%s: counters:\n%s", to, diff)
		}
	}
}

// The listener's socket comes into being in other ways then, and accept(2) must
// not overtake its record in any of them.
func TestRecordComesBeforeItsSocketHoweverThatIsMade(t *testing.T) {
	tests := []struct{ name, setting, value, way, statistic string }{
		{"by a SYN cookie", "tcp_syncookies", "2", "plain", "SyncookiesRecv"},
		{"by data in the SYN", "tcp_fastopen", "1543", "fastopen", "TCPFastOpenPassive"}, // without cookies
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t)
			b.apply(t, tunnel("192.168.0.0/16"))
			b.tune(t, "ipv4/"+test.setting, test.value)
			b.startAcceptor(t) // a listener asks when it begins to listen
			count := 500
			if testing.Short() {
				count = 100
			}
			var to []string
			want := ""
			for n := range count {
				addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, byte(n >> 8), byte(n)}), 80).String()
				to = append(to, addr)
				want += "peer " + addr + " to " + addr + " rule 0 generation 1\n"
			}
			got := testutil.Child(t, b.ns, b.cgroup, "connect", append([]string{test.way}, to...)...)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if n := b.statistic(t, test.statistic); n != count {
				t.Errorf("%s is %d, want %d", test.statistic, n, count)
			}
			all := uint64(count)
			counts := map[string]uint64{"acquire": all, "handoff_offered": all, "handoff_taken": all}
			if diff := cmp.Diff(counts, b.counters(t, nil)); diff != "" {
				t.Errorf("counters:\n%s", diff)
			}
			if n := b.handoffs(t); n != 0 {
				t.Errorf("%d records left in the handoff", n)
			}
		})
	}
}

// statistic reads one of the namespace's counters of TCP, as proc_pid_net(5) shows
// them: a line of names, and below it their values.
func (b *bed) statistic(t *testing.T, name string) int {
	t.Helper()
	var text []byte
	err := b.ns.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/netstat")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	names, values := strings.Fields(lines[0]), strings.Fields(lines[1])
	n, err := strconv.Atoi(values[slices.Index(names, name)])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A host whose loopback has no ::1 has one listener for both families.
func TestIPv6IsAcquiredByTheIPv4ListenerAlone(t *testing.T) {
	b := newBed(t)
	b.apply(t, tunnel("2001:db8::/32"))
	b.tune(t, "ipv6/conf/all/disable_ipv6", "1")
	b.startAcceptor(t)
	const to = "[2001:db8::c8]:443"
	got := testutil.Child(t, b.ns, b.cgroup, "connect", "plain", to, to)
	if want := strings.Repeat("peer "+to+" to "+to+" rule 0 generation 1\n", 2); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	want := map[string]uint64{"acquire": 2, "handoff_offered": 2, "handoff_taken": 2}
	if diff := cmp.Diff(want, b.counters(t, nil)); diff != "" {
		t.Errorf("counters:\n%s", diff)
	}
}
