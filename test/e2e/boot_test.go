package e2e

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// resolvingScenario is the agent scenario with another /etc, which is its first
// argument. It needs a mount namespace of its own.
func resolvingScenario(args []string, stdout io.Writer) error {
	if err := unix.Mount(args[0], "/etc", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return agentScenario(args[1:], stdout)
}

// nameserver answers every question for an IPv4 address with that of the edges,
// once it is there. Until then it takes questions and is silent.
type nameserver struct {
	there atomic.Bool
	asked atomic.Int64
}

// startNameserver starts a nameserver that answers to the end of the test.
func (s *site) startNameserver(t *testing.T) *nameserver {
	t.Helper()
	conn, err := s.net.ListenPacket(t.Context(), "udp", edgeAddr+":53")
	if err != nil {
		t.Fatal(err)
	}
	n := new(nameserver)
	var answering sync.WaitGroup
	answering.Go(func() {
		buffer := make([]byte, 1500)
		for {
			size, peer, err := conn.ReadFrom(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			n.asked.Add(1)
			answer, err := n.answer(buffer[:size])
			if err != nil {
				t.Error(err)
			}
			if n.there.Load() {
				conn.WriteTo(answer, peer) // who does not get it asks again
			}
		}
	})
	t.Cleanup(func() {
		conn.Close()
		answering.Wait()
	})
	return n
}

func (n *nameserver) answer(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	m.Response, m.Additionals = true, nil
	for _, q := range m.Questions {
		if q.Type == dnsmessage.TypeA {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: netip.MustParseAddr(edgeAddr).As4()},
			})
		}
	}
	return m.Pack()
}

// startResolving starts an agent that asks the nameserver, and no file, for its
// edges.
func (s *site) startResolving(t *testing.T) {
	t.Helper()
	s.config.Edges.Addresses = nil
	etc := filepath.Join(s.folder, "etc")
	if err := os.Mkdir(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"resolv.conf": "nameserver " + edgeAddr + "\n", "hosts": ""} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.agent = testutil.ScenarioCommand(t, "resolving", etc, s.writeConfig(t))
	s.agent.SysProcAttr.Unshareflags = unix.CLONE_NEWNS
	s.log = &transcript{}
	s.agent.Stderr = io.MultiWriter(t.Output(), s.log)
	startReady(t, s.host, s.cgroup, s.agent)
}

// protectsEdge reports whether connections with the edges go directly, whatever the
// rules say.
func (s *site) protectsEdge(t *testing.T) bool {
	t.Helper()
	why, err := s.control.Explain(t.Context(), "tcp", edgeAddr+":443")
	if err != nil {
		t.Fatal(err)
	}
	return why.Reason == policy.ReasonNeverAcquired && why.Protection == "edge"
}

// A host boots, and its network comes when it comes. The rule covers the edges, so
// that it shows whether they are protected.
func TestAgentIsReadyBeforeItsEdgesAreFound(t *testing.T) {
	s := newSite(t)
	s.setProfile(t, variant(t, `{"start":3232238336,"end":3232238591}`, `{"start":3221225984,"end":3221226239}`)) // 192.0.2.0/24
	s.startEdge(t, 443, "192.168.11.0/24:22")
	names := s.startNameserver(t)
	s.startResolving(t)
	if n := s.status(t).Generation; n != 1 || s.protectsEdge(t) {
		t.Errorf("generation %d knows the edges %t, want 1 that does not", n, s.protectsEdge(t))
	}
	await(t, "a question for the edge", func() bool { return names.asked.Load() > 0 })

	names.there.Store(true)
	await(t, "the edge to be protected", func() bool { return s.protectsEdge(t) })
	s.awaitChannel(t, "up")
	if n := s.status(t).Generation; n != 2 {
		t.Errorf("generation %d, want 2", n)
	}

	// Who asks for the same edges again waits for nobody.
	names.there.Store(false)
	if err := s.control.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := s.status(t).Generation; n != 3 || !s.protectsEdge(t) {
		t.Errorf("generation %d protects the edge: %t, want 3 that does", n, s.protectsEdge(t))
	}
	s.stop(t)
	if n := s.log.count("locate edge"); n > 2 {
		t.Errorf("%d complaints about an edge that is not found, want one each time that it is lost", n)
	}
}
