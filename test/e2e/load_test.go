package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// stormScenario makes the given number of connections, by a few sockets at a
// time that are closed with a reset, so that ports are used again at once. It
// prints how many answers named another destination than the one asked for.
// With a third argument it goes on until its standard input ends, and checks
// that rule and generation belong together.
func stormScenario(args []string, stdout io.Writer) error {
	total, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	const workers = 8
	var all errgroup.Group
	var wrong atomic.Int64
	for w := range workers {
		all.Go(func() error {
			for i := range total / workers {
				n := i*workers + w
				to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, byte(n >> 8), byte(n)}), uint16(1+n%60000))
				line, err := askOnce(to)
				if err != nil {
					return fmt.Errorf("connection %d to %s: %w", n, to, err)
				}
				if !strings.HasPrefix(line, to.String()+" ") {
					wrong.Add(1)
				}
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "wrong %d\n", wrong.Load())
	return err
}

// askOnce connects, reads the listener's line, and resets the connection.
func askOnce(to netip.AddrPort) (string, error) {
	conn, err := net.DialTimeout("tcp", to.String(), ioTimeout)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		return "", err
	}
	if err := conn.SetReadDeadline(time.Now().Add(ioTimeout)); err != nil {
		return "", err
	}
	buf := make([]byte, 128)
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}

func TestHundredThousandConnectsAllReachTheirDestination(t *testing.T) {
	b := newBed(t)
	b.apply(t, tunnel("192.168.0.0/16"))
	// Few ports: each is used again hundreds of times.
	b.tune(t, "ipv4/ip_local_port_range", "40000 40200")
	total := 100_000
	if testing.Short() {
		total = 400
	}
	got := testutil.Child(t, b.ns, b.cgroup, "storm", strconv.Itoa(total))
	if got != "wrong 0\n" {
		t.Errorf("got %q, want none wrong", got)
	}
	n := b.counters(t, nil)
	if n["acquire"] != uint64(total) || n["handoff_taken"] != uint64(total) || n["handoff_missed"] != 0 {
		t.Errorf("counters %v, want %d acquired and taken", n, total)
	}
	if n := b.handoffs(t); n != 0 {
		t.Errorf("%d records left in the handoff", n)
	}
}

// crowdScenario holds the given number of connections at the same time, and
// prints how many have the right peer and the right answer.
func crowdScenario(args []string, stdout io.Writer) error {
	total, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	limit := syscall.Rlimit{Cur: uint64(total) + 100, Max: uint64(total) + 100}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise limit of open files: %w", err)
	}
	var (
		mu    sync.Mutex
		conns []net.Conn
		all   errgroup.Group
	)
	all.SetLimit(64)
	for n := range total {
		all.Go(func() error {
			to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, byte(n >> 8), byte(n)}), 22)
			conn, err := net.DialTimeout("tcp", to.String(), ioTimeout)
			if err != nil {
				return err
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			buf := make([]byte, 128)
			n, err := conn.Read(buf)
			if err != nil {
				return err
			}
			if !strings.HasPrefix(string(buf[:n]), to.String()+" ") || conn.RemoteAddr().String() != to.String() {
				return fmt.Errorf("asked for %s: peer %s, answer %q", to, conn.RemoteAddr(), buf[:n])
			}
			return nil
		})
	}
	err = all.Wait()
	if err == nil {
		_, err = fmt.Fprintf(stdout, "held %d\n", len(conns))
	}
	// All are still known to the kernel by their own destination.
	for _, conn := range conns {
		raw, rawErr := conn.(*net.TCPConn).SyscallConn()
		if rawErr != nil {
			return rawErr
		}
		var peer unix.Sockaddr
		ctlErr := raw.Control(func(fd uintptr) { peer, rawErr = unix.Getpeername(int(fd)) })
		if err := errors.Join(ctlErr, rawErr); err != nil {
			return err
		}
		if addrPortOf(peer).String() != conn.RemoteAddr().String() {
			return fmt.Errorf("peer of %s became %s", conn.RemoteAddr(), addrPortOf(peer))
		}
		conn.Close()
	}
	return err
}

func TestTenThousandFlowsAtOnceKeepTheirDestinations(t *testing.T) {
	total := 10_000
	if testing.Short() {
		total = 200
	}
	raiseFiles(t, uint64(total)+1000)
	b := newBed(t)
	b.apply(t, tunnel("192.168.0.0/16"))
	got := testutil.Child(t, b.ns, b.cgroup, "crowd", strconv.Itoa(total))
	if want := fmt.Sprintf("held %d\n", total); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// raiseFiles makes room for n open files in this process.
func raiseFiles(t *testing.T, n uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur >= n {
		return
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: max(n, limit.Max)}); err != nil {
		t.Fatalf("raise limit of open files: %v", err)
	}
}
