package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/config"
)

// manager is a service manager, as far as its services see it.
type manager struct {
	socket string
	mu     sync.Mutex
	told   []string
}

// newManager starts a service manager, which listens to the end of the test.
func newManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{socket: filepath.Join(t.TempDir(), "notify")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	var listening sync.WaitGroup
	listening.Go(func() {
		buffer := make([]byte, 4096)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.told = append(m.told, string(buffer[:n]))
			m.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		conn.Close()
		listening.Wait()
	})
	return m
}

// all are the messages so far.
func (m *manager) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.told)
}

// count is how many messages have a line.
func (m *manager) count(line string) int {
	n := 0
	for _, message := range m.all() {
		if slices.Contains(strings.Split(message, "\n"), line) {
			n++
		}
	}
	return n
}

// await waits for a message that an expression matches as a whole, after as many as
// it is told to leave out, and returns its place.
func (m *manager) await(t *testing.T, after int, expression string) (place int) {
	t.Helper()
	want := regexp.MustCompile("^(?:" + expression + ")$")
	await(t, "a message "+expression, func() bool {
		all := m.all()
		place = after + slices.IndexFunc(all[min(after, len(all)):], want.MatchString)
		return place >= after
	})
	return place
}

// start starts an agent as a service of the manager.
func (m *manager) start(t *testing.T, s *site, environment ...string) {
	t.Helper()
	s.agent = s.command(t)
	s.agent.Env = append(append(s.agent.Env, "NOTIFY_SOCKET="+m.socket), environment...)
	startReady(t, s.host, s.cgroup, s.agent)
}

func TestServiceManagerIsToldWhatTheAgentIsAt(t *testing.T) {
	s, m := newSite(t), newManager(t)
	s.config.Relay.Drain = config.Duration(2 * time.Second)
	edge := s.startEdge(t, 443, "192.168.0.0/16:*")
	testutil.Respond(t, s.net, "192.168.11.1:22", greet)

	const reloading = `RELOADING=1\nMONOTONIC_USEC=\d+\nSTATUS=reloading`
	m.start(t, s)
	at := m.await(t, 0, "STATUS=loading programs")
	at = m.await(t, at, "STATUS=applying profile "+regexp.QuoteMeta(s.config.Profile))
	at = m.await(t, at, `READY=1\nSTATUS=acquiring: generation 1, 3 rules, Private (connecting|up)`)
	at = m.await(t, at, `(READY=1\n)?STATUS=acquiring: generation 1, 3 rules, Private up`)

	if err := s.agent.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	at = m.await(t, at, reloading)
	at = m.await(t, at, `READY=1\nSTATUS=acquiring: generation 2, 3 rules, Private up`)

	good := variant(t)
	s.setProfile(t, variant(t, `"order":2.0`, `"order":"second"`))
	if err := s.control.Reload(t.Context()); err == nil {
		t.Error("reload of a bad profile succeeds")
	}
	const rejected = `; reload rejected: /policy/rules/2/order: .*`
	at = m.await(t, at, reloading)
	at = m.await(t, at, `READY=1\nSTATUS=acquiring: generation 2, 3 rules, Private up`+rejected)
	if _, err := s.control.Apply(t.Context(), strings.NewReader(good), "by hand"); err != nil {
		t.Fatal(err)
	}
	at = m.await(t, at, `STATUS=acquiring: generation 3, 3 rules, Private up`+rejected)

	s.setProfile(t, good)
	if err := s.control.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	at = m.await(t, at, reloading)
	at = m.await(t, at, `READY=1\nSTATUS=acquiring: generation 4, 3 rules, Private up`)
	kill(t, edge)
	at = m.await(t, at, `STATUS=acquiring: generation 4, 3 rules, Private down`)
	s.startEdge(t, 443, "192.168.0.0/16:*")
	at = m.await(t, at, `STATUS=acquiring: generation 4, 3 rules, Private up`)

	quiet := testutil.ScenarioCommand(t, "exchange", "listen", "192.168.11.1:22")
	heard := &transcript{}
	quiet.Stdout = heard
	testutil.Start(t, s.host, s.cgroup, quiet)
	await(t, "a live flow", func() bool { return heard.count("192.168.11.1:22\n") == 1 })
	s.stop(t)
	at = m.await(t, at, `STOPPING=1\nSTATUS=detaching`)
	at = m.await(t, at, `STATUS=draining 1 flow\nWATCHDOG=1\nEXTEND_TIMEOUT_USEC=15000000`)
	m.await(t, at, `WATCHDOG=1\nEXTEND_TIMEOUT_USEC=15000000`)

	var stages []string
	for _, message := range m.all() {
		if first, _, _ := strings.Cut(message, "\n"); strings.HasSuffix(first, "ING=1") || first == "READY=1" {
			stages = append(stages, strings.TrimSuffix(first, "=1"))
		}
	}
	want := []string{"READY", "RELOADING", "READY", "RELOADING", "READY", "RELOADING", "READY", "STOPPING"}
	if diff := cmp.Diff(want, stages); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
}

// Stopped by a signal the agent hangs as a whole. Its own parts are the matter of the
// watchdog's own tests.
func TestWatchdogIsFedByARunningAgentAlone(t *testing.T) {
	s, m := newSite(t), newManager(t)
	s.config.Kernel.Lease = config.Duration(time.Second)
	const patience = 2 * time.Second
	m.start(t, s, fmt.Sprintf("WATCHDOG_USEC=%d", patience.Microseconds()))
	await(t, "the watchdog to be fed twice", func() bool { return m.count("WATCHDOG=1") >= 2 })

	if err := s.agent.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(s.agent.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("wait for the agent to be stopped: %v, status %v", err, status)
	}
	// By the time that the lease has lapsed, what was sent before the stop is read.
	await(t, "the lease to lapse", func() bool { return !s.leased(t) })
	before := m.count("WATCHDOG=1")
	<-time.After(3 * patience / 2)
	if n := m.count("WATCHDOG=1") - before; n != 0 {
		t.Errorf("a stopped agent has fed the watchdog %d times", n)
	}
	if err := s.agent.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	await(t, "the watchdog to be fed again", func() bool { return m.count("WATCHDOG=1") >= before+2 })
	s.stop(t)
}

// leased reports whether the programs take the agent for alive.
func (s *site) leased(t *testing.T) bool {
	t.Helper()
	pinned, err := maps.Open(loader.MapsDir(s.pins))
	if err != nil {
		t.Fatal(err)
	}
	defer pinned.Close()
	agent, err := pinned.Agent()
	if err != nil {
		t.Fatal(err)
	}
	now, err := maps.Monotonic()
	if err != nil {
		t.Fatal(err)
	}
	return now <= agent.LeaseUntil
}

func TestAgentThatDoesNotStartIsNotReady(t *testing.T) {
	s, m := newSite(t), newManager(t)
	if err := os.Remove(s.config.Profile); err != nil {
		t.Fatal(err)
	}
	cmd := s.command(t)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+m.socket)
	if _, err := testutil.Output(t, s.host, s.cgroup, cmd); err == nil {
		t.Error("an agent without a profile runs")
	}
	want := []string{"STATUS=loading programs", "STATUS=applying profile " + s.config.Profile}
	if diff := cmp.Diff(want, m.all()); diff != "" {
		t.Errorf("(-want +told):\n%s", diff)
	}
	if s.log.count(s.config.Profile+": no such file or directory") != 1 {
		t.Errorf("the log does not name the profile: %s", s.log.text.String())
	}
	if _, err := os.Stat(s.pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins of an agent that did not start: %v, want none", err)
	}
}
