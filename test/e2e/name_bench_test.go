package e2e

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// floodScenario sends datagrams from one socket that is not connected to another
// of its own, receives each, and prints the nanoseconds that both took.
func floodScenario(args []string, stdout io.Writer) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	var fds [2]int
	for i := range fds {
		if fds[i], err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		defer unix.Close(fds[i])
	}
	if err := unix.Bind(fds[1], &unix.SockaddrInet4{Addr: netip.MustParseAddr("127.0.0.1").As4()}); err != nil {
		return err
	}
	to, err := unix.Getsockname(fds[1])
	if err != nil {
		return err
	}
	var sending, receiving time.Duration
	buf := make([]byte, 64)
	for range n {
		start := time.Now()
		if err := unix.Sendto(fds[0], buf[:16], 0, to); err != nil {
			return err
		}
		sent := time.Now()
		if _, _, err := unix.Recvfrom(fds[1], buf, 0); err != nil {
			return err
		}
		sending, receiving = sending+sent.Sub(start), receiving+time.Since(sent)
	}
	_, err = fmt.Fprintln(stdout, sending.Nanoseconds()/int64(n), receiving.Nanoseconds()/int64(n))
	return err
}

// BenchmarkDatagramsThatAreNoQueries compares datagrams of one process with and
// without the datapath: the figures are the least of many rounds.
func BenchmarkDatagramsThatAreNoQueries(b *testing.B) {
	bed := newBed(b)
	bed.startResolver(b)
	idle := testutil.Cgroup(b)
	var least [2][2]int
	for b.Loop() {
		for i, cgroup := range []string{idle, bed.cgroup} {
			var round [2]int
			out := testutil.Child(b, bed.ns, cgroup, "flood", "100000")
			if _, err := fmt.Sscan(out, &round[0], &round[1]); err != nil {
				b.Fatal(err)
			}
			for j, ns := range round {
				if least[i][j] == 0 || ns < least[i][j] {
					least[i][j] = ns
				}
			}
		}
	}
	b.ReportMetric(float64(least[0][0]), "ns/sendto-direct")
	b.ReportMetric(float64(least[1][0]), "ns/sendto-hooked")
	b.ReportMetric(float64(least[0][1]), "ns/recvfrom-direct")
	b.ReportMetric(float64(least[1][1]), "ns/recvfrom-hooked")
}
