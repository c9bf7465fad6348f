package host

import (
	"strings"
	"testing"
)

// readyBeforeOnline checks that whatever waits for the network finds it acquired.
func readyBeforeOnline(t *testing.T) {
	const ready = "ActiveEnterTimestampMonotonic"
	agent := properties(t, agentUnit, ready, "InactiveExitTimestampMonotonic", "NRestarts")
	online := properties(t, "network-online.target", ready)
	t.Logf("agent started after %.2f s, ready after %.2f s, network online after %.2f s",
		float64(number(t, agent, "InactiveExitTimestampMonotonic"))/1e6, float64(number(t, agent, ready))/1e6, float64(number(t, online, ready))/1e6)
	if at, limit := number(t, agent, ready), number(t, online, ready); at == 0 || limit == 0 || at > limit {
		t.Errorf("agent was ready after %d µs, the network online after %d µs", at, limit)
	}
	if agent["NRestarts"] != "0" {
		t.Errorf("agent was started again %s times", agent["NRestarts"])
	}
}

func breakProfile(t *testing.T) { write(t, configured, "no profile") }

// lastGoodProfile checks that the agent uses the profile that it kept, and says
// that it is not the configured one.
func lastGoodProfile(t *testing.T) {
	tunnelAndBypass(t)
	s := status(t)
	if s.Profile == nil || !strings.HasPrefix(s.Profile.Source, "/var/lib/bpfacq/") {
		t.Errorf("profile in force is %+v, want the kept one", s.Profile)
	}
	if text := properties(t, agentUnit, "StatusText")["StatusText"]; !strings.Contains(text, "last good") {
		t.Errorf("status of the unit is %q", text)
	}
	if found := journal(t, "--priority=err", "--unit="+agentUnit); len(found) != 1 || !strings.Contains(found[0].text("MESSAGE"), "last good") {
		t.Errorf("complaints in the journal: %v", found)
	}
}
