package e2e

import (
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// A stream that is under way when the agent is told to stop ends in its own time,
// and needs its enclave and the programs of its uplink until then. Datagrams go as
// they would without an agent after that.
func (s *packetSite) checkStop(t *testing.T) {
	const to, open, closed = "192.168.11.1:90", "192.168.11.1:4433", "192.168.12.1:4433"
	asked, stopping := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(stopping) })
	testutil.Respond(t, s.net, to, func(conn *net.TCPConn) {
		question, err := io.ReadAll(conn)
		if err != nil {
			return
		}
		close(asked)
		<-stopping
		fmt.Fprintf(conn, "answer to %s", question)
	})
	t.Cleanup(release)
	p := s.speaker(t, s.host)
	p.want(t, "opened", "open", "a", "udp4")
	p.want(t, echoed(open, 10), "echo", "a", open, 10)
	p.want(t, echoed(closed, 10), "echo", "a", closed, 10)
	wantAnswer := s.ask(t, s.container, "question", to)
	<-asked
	if err := s.agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await(t, "the agent to stop", func() bool {
		_, err := s.control.Status(t.Context())
		return err != nil
	})
	release()
	wantAnswer()
	if err := s.agent.Wait(); err != nil {
		t.Errorf("agent ends with %v", err)
	}
	s.wantNoFilters(t, "up0")
	if pairs := s.pairs(t); pairs != 0 {
		t.Errorf("%d pairs after the agent's end", pairs)
	}

	before := s.counted(t, s.wire)
	for _, to := range []string{open, closed} {
		p.want(t, "sent", "send", "a", to, 10)
	}
	after := s.counted(t, s.wire)
	if after["open"] != before["open"]+1 || after["closed"] != before["closed"]+1 {
		t.Errorf("after the agent's end the wire saw %v, before %v: want each datagram", after, before)
	}
}

// ask starts who asks a question, and returns how to wait for the answer.
func (s *packetSite) ask(t *testing.T, at *netns.Namespace, question, to string) (wantAnswer func()) {
	t.Helper()
	cmd := testutil.ScenarioCommand(t, "exchange", "ask="+question, to)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	testutil.Start(t, at, s.cgroup, cmd)
	return func() {
		t.Helper()
		if got, err := io.ReadAll(out); string(got) != "answer to "+question || err != nil {
			t.Errorf("got %q, %v; want the answer to %s", got, err, question)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("asker of %s ends with %v", question, err)
		}
	}
}

// The packets of a container's stream go by the lease. That is kept while the agent's
// tasks take their time to end, and streams of the host's own sockets: no packet may be
// seen on the wire.
func TestStoppingAgentKeepsTheLeaseForStreamsOfContainers(t *testing.T) {
	const to = "192.168.11.1:80"
	s := newPacketSite(t)
	s.startPacketEdge(t)
	lease := time.Second
	if testing.Short() { // an emulated machine may stall for that long
		lease *= 3
	}
	s.config.Kernel.Lease = config.Duration(lease)
	var asked sync.WaitGroup
	places := map[string]*netns.Namespace{"early": s.container, "late": s.container, "host": s.host}
	stopping, release := make(map[string]chan struct{}), make(map[string]func())
	for name := range places {
		asked.Add(1)
		stopping[name] = make(chan struct{})
		release[name] = sync.OnceFunc(func() { close(stopping[name]) })
		t.Cleanup(release[name])
	}
	testutil.Respond(t, s.net, to, func(conn *net.TCPConn) {
		question, err := io.ReadAll(conn)
		if err != nil {
			return
		}
		asked.Done()
		<-stopping[string(question)]
		fmt.Fprintf(conn, "answer to %s", question)
	})
	s.start(t)
	answer := make(map[string]func())
	for name, at := range places {
		wantAnswer := s.ask(t, at, name, to)
		answer[name] = func() {
			release[name]()
			wantAnswer()
		}
	}
	asked.Wait()
	// Who asks something and does not end keeps the control socket open for 2 s.
	slow, err := net.Dial("unix", s.config.Control.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if _, err := io.WriteString(slow, "GET"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := s.agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for _, at := range []struct {
		leases time.Duration
		name   string
	}{{3, "early"}, {8, "late"}, {8, "host"}} {
		await(t, "a lease to end that is not kept", func() bool { return time.Since(began) > at.leases*lease/2 })
		answer[at.name]()
	}
	if err := s.agent.Wait(); err != nil {
		t.Errorf("agent ends with %v", err)
	}
	s.wantFirewallAtEase(t)
}
