package e2e

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/control"
)

// port81 is a profile that acquires port 81 instead of port 80.
func port81(t testing.TB) string {
	t.Helper()
	return variant(t, `{"start":80,"end":80}`, `{"start":81,"end":81}`)
}

// acquiresPort checks which of the ports 80 and 81 is acquired.
func (s *site) acquiresPort(t *testing.T, port string) {
	t.Helper()
	for _, p := range []string{"80", "81"} {
		want := "ENETUNREACH"
		if p == port {
			want = greeted("192.168.11.1:" + p)
		}
		if got := s.connect(t, "192.168.11.1:"+p); got != want {
			t.Errorf("port %s: got %q, want %q", p, got, want)
		}
	}
}

// reloadSite is a site whose agent acquires port 80.
func reloadSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	s.startEdge(t, 443, "192.168.11.0/24:80,81")
	testutil.Respond(t, s.net, "192.168.11.1:80", greet)
	testutil.Respond(t, s.net, "192.168.11.1:81", greet)
	s.start(t)
	s.acquiresPort(t, "80")
	return s
}

func TestHangupReloadsTheProfile(t *testing.T) {
	s := reloadSite(t)
	hangup := func() {
		if err := s.agent.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	s.setProfile(t, port81(t))
	hangup()
	await(t, "the second generation", func() bool { return s.status(t).Generation == 2 })
	s.acquiresPort(t, "81")

	const complaint = "level=ERROR msg=reload"
	s.setProfile(t, variant(t, `"order":2.0`, `"order":"second"`))
	hangup()
	await(t, "a complaint about a bad profile", func() bool { return s.log.count(complaint) == 1 })
	if s.log.count("/policy/rules/2/order") == 0 {
		t.Error("the complaint does not say where the profile is bad")
	}
	if n := s.status(t).Generation; n != 2 {
		t.Errorf("generation %d after a bad profile, want 2", n)
	}
	s.acquiresPort(t, "81")

	// The last good profile holds, also for the next agent.
	s.stop(t)
	s.start(t)
	s.acquiresPort(t, "81")
	status := s.status(t)
	if status.Profile.Source != filepath.Join(s.config.StateDir, "profile.json") {
		t.Errorf("profile is from %q, want the last good one of the state folder", status.Profile.Source)
	}
	const warning = "profile is rejected, last good one is used: "
	if w := status.Warnings; len(w) != 1 || !strings.HasPrefix(w[0], warning) {
		t.Errorf("status warns of %q, want only %q with the cause", w, warning)
	}
	s.stop(t)
}

func TestReloadTakesUpTheConfiguration(t *testing.T) {
	s := reloadSite(t)
	s.config.Profile = filepath.Join(s.folder, "other.json")
	s.setProfile(t, port81(t))
	s.writeConfig(t)
	if err := s.control.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.acquiresPort(t, "81")

	// One key that waits for a start keeps all others from being taken up.
	lease := s.config.Kernel.Lease
	s.config.Kernel.Lease = config.Duration(2e9)
	s.config.Profile = filepath.Join(s.folder, "profile.json")
	s.writeConfig(t)
	if err := s.control.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "kernel.lease") {
		t.Errorf("reload with another lease gives %v, want a complaint about kernel.lease", err)
	}
	s.acquiresPort(t, "81")

	s.config.Kernel.Lease = lease
	s.config.Edges.CAFile = filepath.Join(s.folder, "absent.pem")
	s.writeConfig(t)
	if err := s.control.Reload(t.Context()); err == nil {
		t.Error("reload with an absent CA file succeeds")
	}
	s.acquiresPort(t, "81")
	s.stop(t)
}

func TestAppliedPolicyIsWholeOrNotAtAll(t *testing.T) {
	s := reloadSite(t)
	applied, err := s.control.Apply(t.Context(), strings.NewReader(port81(t)), "by hand")
	if err != nil {
		t.Fatal(err)
	}
	if applied.Generation != 2 || applied.Profile.Source != "by hand" || applied.Profile.Rules != 3 {
		t.Errorf("applied %+v, want generation 2 of 3 rules, by hand", applied)
	}
	s.acquiresPort(t, "81")

	for _, test := range []struct {
		name, old, bad string
		pointer        string
	}{
		{"range backwards", `{"start":80,"end":80}`, `{"start":80,"end":79}`, "/policy/rules/2/matchingCriteria/ports/1"},
		{"unknown channel", `"channelId":"` + sampleChannel + `","order":2.0`, `"channelId":"other","order":2.0`, "/policy/rules/2/channelId"},
		{"edge not on the allow-list", sampleEdge, "edge.example.com", "/policy/channels/0/edgesSettings/primaryEdges/0/edgeAddress"},
		{"edge without TLS", `"isSecure":true`, `"isSecure":false`, "/policy/channels/0/edgesSettings/primaryEdges/0/isSecure"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := s.control.Apply(t.Context(), strings.NewReader(variant(t, test.old, test.bad)), "bad")
			rejected, ok := errors.AsType[*control.RejectedError](err)
			if !ok {
				t.Fatalf("apply gives %v, want a rejection", err)
			}
			var pointers []string
			for _, p := range rejected.Problems {
				pointers = append(pointers, p.Pointer)
			}
			if diff := cmp.Diff([]string{test.pointer}, pointers); diff != "" {
				t.Error(diff)
			}
		})
	}
	if n := s.status(t).Generation; n != 2 {
		t.Errorf("generation %d after bad profiles, want 2", n)
	}
	s.acquiresPort(t, "81")
	s.stop(t)
}

// An edge of somebody else is neither looked up nor dialed.
func TestAgentDoesNotStartWithAnEdgeThatIsNotAllowed(t *testing.T) {
	s := newSite(t)
	s.config.Edges.Allow, s.config.Edges.Addresses = []string{"*.edge.example"}, nil
	_, err := testutil.Output(t, s.host, s.cgroup, s.command(t))
	if err == nil {
		t.Error("agent runs")
	}
	if s.log.count("/policy/channels/0/edgesSettings/primaryEdges/0/edgeAddress") != 1 {
		t.Error("agent does not name the edge as the cause")
	}
	if s.log.count("dial") != 0 || s.log.count("lookup") != 0 {
		t.Error("agent has looked the edge up, or dialed it")
	}
	if _, err := os.Stat(s.pins); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("pins of an agent that did not start: %v, want none", err)
	}
}
