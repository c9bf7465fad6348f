package e2e

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// refuse runs an agent that must not start, and wants it to say why and to leave
// nothing.
func (s *site) refuse(t *testing.T, reasons ...string) {
	t.Helper()
	if _, err := testutil.Output(t, s.host, s.cgroup, s.command(t)); err == nil {
		t.Error("agent runs")
	}
	for _, reason := range reasons {
		if s.log.count(reason) == 0 {
			t.Errorf("agent does not speak of %q", reason)
		}
	}
	for _, path := range []string{s.pins, s.config.Control.Socket} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s of an agent that did not start: %v, want none", path, err)
		}
	}
	if got, want := s.connect(t, webAddr+":80"), "ENETUNREACH"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAgentWithoutAnyGoodProfileDoesNotStart(t *testing.T) {
	s := newSite(t)
	s.setProfile(t, variant(t, `"order":2.0`, `"order":"second"`))
	if err := os.Mkdir(s.config.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.config.StateDir, "profile.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.refuse(t, "/policy/rules/2/order", "apply last good profile")
}

func TestAgentWhoseMetricsHaveNoAddressDoesNotStart(t *testing.T) {
	s := newSite(t)
	s.config.Metrics.Listen = testutil.Banner(t, s.host, "127.0.0.1:0", "taken").String()
	s.refuse(t, "listen for metrics", "address already in use")
}

// What keeps a policy over a reboot is no condition of the one at hand, and the
// other way round.
func TestAgentAcquiresWithOneOfItsTwoProfiles(t *testing.T) {
	t.Run("state folder cannot be written", func(t *testing.T) {
		s := newSite(t)
		s.config.StateDir = filepath.Join(s.config.Profile, "state")
		s.startEdge(t, 443, "192.168.11.0/24:80")
		testutil.Respond(t, s.net, webAddr+":80", greet)
		s.start(t)
		if got, want := s.connect(t, webAddr+":80"), greeted(webAddr+":80"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		s.stop(t)
		if n := s.log.count(`level=WARN msg="keep last good profile"`); n != 1 {
			t.Errorf("agent says %d times that it keeps no profile, want once", n)
		}
	})
	t.Run("profile is gone", func(t *testing.T) {
		s := newSite(t)
		s.startEdge(t, 443, "192.168.11.0/24:80")
		testutil.Respond(t, s.net, webAddr+":80", greet)
		s.start(t)
		s.stop(t)
		if err := os.Remove(s.config.Profile); err != nil {
			t.Fatal(err)
		}
		s.start(t)
		if got, want := s.connect(t, webAddr+":80"), greeted(webAddr+":80"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		s.stop(t)
		if n := s.log.count(`msg="profile is rejected, last good one is used"`); n != 1 {
			t.Errorf("agent says %d times that it uses the last good profile, want once", n)
		}
	})
}
