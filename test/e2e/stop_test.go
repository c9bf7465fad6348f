package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/config"
)

// pressScenario connects to an address without a pause until its standard input
// ends, and prints every way in which that went when it is met first.
func pressScenario(args []string, stdout io.Writer) error {
	to, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	var ended atomic.Bool
	var met sync.Map
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for !ended.Load() {
				way := outcome(askOnce(to))
				if _, old := met.LoadOrStore(way, true); !old {
					fmt.Fprintln(stdout, way)
				}
			}
		})
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	ended.Store(true)
	all.Wait()
	return err
}

// outcome is an answer's text, or the call that failed and its errno.
func outcome(answer string, err error) string {
	failed, ok := errors.AsType[*net.OpError](err)
	if errno, number := errors.AsType[syscall.Errno](err); ok && number {
		return failed.Op + " " + unix.ErrnoName(errno)
	}
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(answer)
}

// Until the datapath is gone a flow is carried, and after that it goes direct:
// none meets a listener that is closing or knows nothing of it.
func TestStoppingAgentRefusesNobody(t *testing.T) {
	s := newSite(t)
	s.startEdge(t, 443, "192.168.11.0/24:22")
	testutil.Respond(t, s.net, "192.168.11.1:22", greet)
	stops := 10
	if testing.Short() {
		stops = 3
	}
	for range stops {
		s.start(t)
		press := testutil.ScenarioCommand(t, "press", "192.168.11.1:22")
		ways := &transcript{}
		press.Stdout = ways
		stdin, err := press.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		testutil.Start(t, s.host, s.cgroup, press)
		await(t, "a flow that is carried", func() bool { return ways.count("192.168.11.1:22\n") == 1 })
		s.stop(t)
		await(t, "a flow that goes direct", func() bool { return ways.count("dial ENETUNREACH\n") == 1 })
		stdin.Close()
		if err := press.Wait(); err != nil {
			t.Error(err)
		}
		if n := ways.count("\n"); n != 2 {
			t.Errorf("connects ended in %d ways, want to be carried or go direct:\n%s", n, &ways.text)
		}
	}
}

// The lease of an agent that was killed says that somebody listens. The next one
// knows better, long before it is ready itself.
func TestNextAgentDoesNotBelieveTheLeaseOfADeadOne(t *testing.T) {
	s := newSite(t)
	s.config.Kernel.Lease = config.Duration(60e9)
	s.startEdge(t, 443, "192.168.11.0/24:22")
	testutil.Respond(t, s.net, "192.168.11.1:22", greet)
	s.start(t)
	kill(t, s.agent)
	if got, want := s.connect(t, "192.168.11.1:22"), "ECONNREFUSED"; got != want {
		t.Errorf("while the lease runs: got %q, want %q", got, want)
	}

	s.config.Control.Socket = s.folder // which it is not: this agent does not start
	if _, err := testutil.Output(t, s.host, s.cgroup, s.command(t)); err == nil {
		t.Error("an agent without a control socket runs")
	}
	if got, want := s.connect(t, "192.168.11.1:22"), "ENETUNREACH"; got != want {
		t.Errorf("after an agent that did not start: got %q, want %q", got, want)
	}
}
