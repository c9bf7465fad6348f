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
// and needs its enclave and the programs of its uplink until then.
func TestStoppingAgentLetsStreamsOfContainersEnd(t *testing.T) {
	const to = "192.168.11.1:80"
	s := newPacketSite(t)
	s.startPacketEdge(t)
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
	s.start(t)
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
	if pairs := s.pairs(t); pairs != 0 {
		t.Errorf("%d pairs after the agent's end", pairs)
	}
	s.wantFirewallAtEase(t)
}
