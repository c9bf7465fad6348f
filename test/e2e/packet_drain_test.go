package e2e

import (
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
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
	cmd := testutil.ScenarioCommand(t, "exchange", "ask=question", to)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	testutil.Start(t, s.container, s.cgroup, cmd)
	<-asked
	if err := s.agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await(t, "the agent to stop", func() bool {
		_, err := s.control.Status(t.Context())
		return err != nil
	})
	release()
	if got, err := io.ReadAll(out); string(got) != "answer to question" || err != nil {
		t.Errorf("got %q, %v; want the answer", got, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("asker ends with %v", err)
	}
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
