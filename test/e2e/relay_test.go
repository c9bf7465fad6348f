package e2e

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
)

// relayScenario is a stock transparent proxy: it knows nothing of bpfacq, asks
// for SO_ORIGINAL_DST and tells the application what it heard.
func relayScenario(_ []string, stdout io.Writer) error {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
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
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			return err
		}
		raw.Control(func(fd uintptr) {
			heard, err := unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST)
			if err != nil {
				fmt.Fprintln(conn, err)
				return
			}
			// The option fills a sockaddr_in; the type has its 16 bytes.
			at := heard.Multiaddr
			fmt.Fprintf(conn, "%d.%d.%d.%d:%d\n", at[4], at[5], at[6], at[7], int(at[2])<<8|int(at[3]))
		})
		conn.Close()
	}
}

func TestAnotherRelayHearsTheOriginalDestination(t *testing.T) {
	b := &bed{
		ns:     testutil.Netns(t),
		cgroup: testutil.Cgroup(t),
		pins:   filepath.Join(testutil.BPFFS(t), "bpfacq"),
	}
	relayCgroup := testutil.Cgroup(t)
	b.load(t, loader.Options{RelayCgroup: relayCgroup, OriginalDst: true})
	cmd := testutil.ScenarioCommand(t, "relay")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	testutil.Start(t, b.ns, relayCgroup, cmd)
	var port uint16
	if _, err := fmt.Fscan(stdout, &port); err != nil {
		t.Fatal(err)
	}
	b.announce(t, maps.Agent{Port4: port})
	b.apply(t, tunnel("192.168.11.0/24"))

	for _, way := range []string{"plain", "mapped"} {
		got := testutil.Child(t, b.ns, b.cgroup, "connect", way, "192.168.11.200:8080")
		want := "peer 192.168.11.200:8080 to 192.168.11.200:8080\n"
		if way == "mapped" {
			want = "peer [::ffff:192.168.11.200]:8080 to 192.168.11.200:8080\n"
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", way, got, want)
		}
	}
	// A connection that was not acquired has no original destination.
	got := testutil.Child(t, b.ns, b.cgroup, "connect", "plain", fmt.Sprintf("127.0.0.1:%d", port))
	if got == fmt.Sprintf("peer 127.0.0.1:%d to 127.0.0.1:%d\n", port, port) {
		t.Errorf("a direct connection hears %q", got)
	}
}
