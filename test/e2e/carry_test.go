package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/flow"
)

// The main job on real input: the profile as it is, one port of an address that
// goes through an edge and one that does not, and a host on which nothing has
// changed.
func TestSampleProfileIsAcquired(t *testing.T) {
	s := newSite(t)
	s.startEdge(t, 443, "192.168.11.0/24:*")
	testutil.HTTP(t, s.net, webAddr+":80", http.HandlerFunc(web))
	testutil.HTTP(t, s.net, webAddr+":81", http.HandlerFunc(web)) // the edge allows it: only the policy does not
	before := testutil.HostState(t, s.host)
	s.start(t)

	got, err := s.curl(t, "http://"+webAddr+"/")
	if want := fromWeb(webAddr + ":80"); got != want || err != nil {
		t.Errorf("port 80: got %q, %v, want %q", got, err, want)
	}
	if got, want := s.connect(t, webAddr+":81"), "ENETUNREACH"; got != want {
		t.Errorf("port 81: got %q, want %q", got, want)
	}
	if diff := before.Diff(testutil.HostState(t, s.host)); diff != "" {
		t.Errorf("host state while flows are acquired:\n%s", diff)
	}
	s.stop(t)
}

func TestBothFamiliesAreCarried(t *testing.T) {
	s := newSite(t)
	testutil.AnswerAll(t, s.net, netip.MustParsePrefix("2001:db8:11::/64"))
	s.setProfile(t, variant(t, `{"start":3232238336,"end":3232238591}`, `{"start":3232238336,"end":3232238591},"2001:db8:11::/64"`))
	s.startEdge(t, 443, "192.168.11.0/24:22", "[2001:db8:11::/64]:22")
	testutil.Respond(t, s.net, "[::]:22", greet)
	s.start(t)
	const to4, to6 = "192.168.11.1:22", "[2001:db8:11::1]:22"
	for _, test := range []struct{ way, to, want string }{
		{"plain", to4, greeted(to4) + "\n"},
		{"plain", to6, greeted(to6) + "\n"},
		{"mapped", to4, "peer [::ffff:192.168.11.1]:22 to " + to4 + "\n"},
	} {
		if got := testutil.Child(t, s.host, s.cgroup, "connect", test.way, test.to); got != test.want {
			t.Errorf("%s %s: got %q, want %q", test.way, test.to, got, test.want)
		}
		if f := s.endedFlow(t, test.to); f.Rule != sampleRule || f.Status != http.StatusOK {
			t.Errorf("%s %s: flow by rule %q with status %d", test.way, test.to, f.Rule, f.Status)
		}
	}
	s.stop(t)
}

func TestHalfCloseReachesTheOtherSide(t *testing.T) {
	s := newSite(t)
	s.startEdge(t, 443, "192.168.11.0/24:22,80")
	testutil.Respond(t, s.net, "192.168.11.1:80", func(conn *net.TCPConn) {
		if question, err := io.ReadAll(conn); err == nil {
			fmt.Fprintf(conn, "answer to %s", question)
		}
	})
	late := make(chan string, 1)
	testutil.Respond(t, s.net, "192.168.11.1:22", func(conn *net.TCPConn) {
		io.WriteString(conn, "all I have")
		conn.CloseWrite()
		reply, err := io.ReadAll(conn)
		late <- fmt.Sprintf("%s, %v", reply, err)
	})
	s.start(t)

	got := testutil.Child(t, s.host, s.cgroup, "exchange", "ask=question", "192.168.11.1:80")
	if want := "answer to question"; got != want {
		t.Errorf("application half-closes: got %q, want %q", got, want)
	}
	got = testutil.Child(t, s.host, s.cgroup, "exchange", "hear=too late?", "192.168.11.1:22")
	if want := "all I have"; got != want {
		t.Errorf("target half-closes: got %q, want %q", got, want)
	}
	if got, want := <-late, "too late?, <nil>"; got != want {
		t.Errorf("target that has half-closed hears %q, want %q", got, want)
	}
	for _, to := range []string{"192.168.11.1:80", "192.168.11.1:22"} {
		if f := s.endedFlow(t, to); f.State != flow.StateClosed || f.Cause != "" {
			t.Errorf("flow to %s is %s for %q, want closed for none", to, f.State, f.Cause)
		}
	}
	s.stop(t)
}

func TestResetReachesTheOtherSide(t *testing.T) {
	s := newSite(t)
	edge := s.startEdge(t, 443, "192.168.11.0/24:22,80,443")
	testutil.Respond(t, s.net, "192.168.11.1:80", func(conn *net.TCPConn) {
		conn.Read(make([]byte, 64)) // or the edge would not get to answer CONNECT
		conn.SetLinger(0)
	})
	ended := make(chan error, 1)
	testutil.Respond(t, s.net, "192.168.11.1:22", func(conn *net.TCPConn) {
		io.WriteString(conn, "go on\n")
		_, err := io.ReadAll(conn)
		ended <- err
	})
	testutil.Respond(t, s.net, "192.168.11.1:443", greet)
	s.start(t)

	t.Run("of the target", func(t *testing.T) {
		got := testutil.Child(t, s.host, s.cgroup, "exchange", "listen=what now?", "192.168.11.1:80")
		if want := "ECONNRESET"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if f := s.endedFlow(t, "192.168.11.1:80"); f.State != flow.StateReset || !strings.Contains(f.Cause, "edge") {
			t.Errorf("flow is %s for %q, want reset by the edge", f.State, f.Cause)
		}
	})
	t.Run("of the application", func(t *testing.T) {
		testutil.Child(t, s.host, s.cgroup, "exchange", "abort", "192.168.11.1:22")
		if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("target reads %v, want %v", err, syscall.ECONNRESET)
		}
		if f := s.endedFlow(t, "192.168.11.1:22"); f.State != flow.StateReset || !strings.Contains(f.Cause, "application") {
			t.Errorf("flow is %s for %q, want reset by the application", f.State, f.Cause)
		}
	})
	t.Run("of the edge", func(t *testing.T) {
		cmd := testutil.ScenarioCommand(t, "exchange", "listen", "192.168.11.1:443")
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		testutil.Start(t, s.host, s.cgroup, cmd)
		printed := bufio.NewReader(stdout)
		if line, err := printed.ReadString('\n'); line != "192.168.11.1:443\n" || err != nil {
			t.Fatalf("live flow says %q, %v", line, err)
		}
		kill(t, edge)
		rest, err := io.ReadAll(printed)
		if got, want := string(rest), "ECONNRESET"; got != want || err != nil {
			t.Errorf("after the edge's death: got %q, %v, want %q", got, err, want)
		}
	})
	s.stop(t)
}

func TestRefusalResetsTheFlowWithItsStatus(t *testing.T) {
	s := newSite(t)
	s.startEdge(t, 443, "192.168.11.1:*")
	testutil.Respond(t, s.net, "192.168.11.2:80", greet)
	s.start(t)
	for _, test := range []struct {
		name, to string
		status   int
	}{
		{"not allowed", "192.168.11.2:80", http.StatusForbidden},
		{"nobody listens", "192.168.11.1:80", http.StatusBadGateway},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, want := s.connect(t, test.to), "ECONNRESET"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			f := s.endedFlow(t, test.to)
			if f.State != flow.StateRefused || f.Status != test.status {
				t.Errorf("flow is %s with status %d, want refused with %d", f.State, f.Status, test.status)
			}
			line := fmt.Sprintf("status=%d orig_dst=%s ", test.status, test.to)
			await(t, "the flow's line in the log", func() bool { return s.log.count(line) != 0 })
			if n := s.log.count(line); n != 1 {
				t.Errorf("log has %q %d times, want once", line, n)
			}
		})
	}
	if n := s.status(t).Flows.Refused; n != 2 {
		t.Errorf("%d flows refused, want 2", n)
	}
	s.stop(t)
}

func TestBytesArriveAsTheyWereSent(t *testing.T) {
	s := newSite(t)
	s.startEdge(t, 443, "192.168.11.0/24:*")
	testutil.Echo(t, s.net, "192.168.11.1:443")
	s.start(t)
	const size = 128 << 20
	got := testutil.Child(t, s.host, s.cgroup, "exchange", "bulk="+strconv.Itoa(size), "192.168.11.1:443")
	if want := fmt.Sprintf("%d bytes came back", size); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	f := s.endedFlow(t, "192.168.11.1:443")
	if f.State != flow.StateClosed || f.BytesSent != uint64(size) || f.BytesReceived != uint64(size) {
		t.Errorf("flow is %s with %d and %d bytes, want closed with %d each way", f.State, f.BytesSent, f.BytesReceived, size)
	}
	s.stop(t)
}

// There is no timer that could cut a quiet flow. What would be noticed here is
// one as short as those by which the agent and others know of each other that
// they live: the lease and the probes of edges, each several times over.
func TestQuietFlowStaysOpen(t *testing.T) {
	s := newSite(t)
	s.config.Kernel.Lease = config.Duration(2 * time.Second)
	s.setProfile(t, variant(t, `"edsSettings":{"pollingIntervalInSeconds":10}`, `"edsSettings":{"pollingIntervalInSeconds":1}`))
	s.startEdge(t, 443, "192.168.11.0/24:22")
	testutil.Echo(t, s.net, "192.168.11.1:22")
	s.start(t)
	got := testutil.Child(t, s.host, s.cgroup, "exchange", "quiet=5s", "192.168.11.1:22")
	if want := "still here"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.stop(t)
}

func TestTenThousandFlowsAtOnceThroughAnEdge(t *testing.T) {
	const total = 10_000
	raiseFiles(t, uint64(total)+1000)
	s := newSite(t)
	s.setProfile(t, variant(t, "3232238336", "3232235520", "3232238591", "3232301055")) // 192.168.0.0/16
	s.startEdge(t, 443, privateNetwork+":22")
	testutil.Respond(t, s.net, "0.0.0.0:22", func(conn *net.TCPConn) {
		fmt.Fprintf(conn, "%s says hello\n", conn.LocalAddr())
		var end [1]byte
		conn.Read(end[:])
	})
	s.start(t)
	got := testutil.Child(t, s.host, s.cgroup, "crowd", strconv.Itoa(total))
	if want := fmt.Sprintf("held %d\n", total); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	await(t, "the end of all flows", func() bool { return s.status(t).Flows.Active == 0 })
	status := s.status(t)
	if n := status.Flows; n.Closed != uint64(total) || n.Reset+n.Refused+n.Failed != 0 {
		t.Errorf("flows %+v, want %d closed", n, total)
	}
	want := map[string]uint64{"acquire": uint64(total), "handoff_offered": uint64(total), "handoff_taken": uint64(total)}
	if diff := cmp.Diff(want, flowCounters(status.Counters)); diff != "" {
		t.Errorf("counters:\n%s", diff)
	}
	s.stop(t)
}

// flowCounters are the counters that are not zero, without those of sockets that
// are not the test's flows.
func flowCounters(all map[string]uint64) map[string]uint64 {
	counted := make(map[string]uint64)
	for name, n := range all {
		if n != 0 && name != "pass_exempt" && name != "pass_never_acquired" {
			counted[name] = n
		}
	}
	return counted
}
