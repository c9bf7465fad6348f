package host

import (
	"encoding/json"
	"strings"
	"testing"
)

// entry is a line of the journal.
type entry map[string]any

func (e entry) text(field string) string {
	text, _ := e[field].(string)
	return text
}

// journal asks for lines of this boot.
func journal(t *testing.T, matches ...string) (entries []entry) {
	t.Helper()
	out := command(t, "journalctl", append([]string{"--boot", "--no-pager", "--quiet", "--output=json"}, matches...)...)
	for line := range strings.Lines(out) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("parse %q: %v", line, err)
		}
		entries = append(entries, e)
	}
	return entries
}

// quietJournal checks that nobody complained in this boot, and nothing failed.
func quietJournal(t *testing.T) {
	if failed := command(t, "systemctl", "list-units", "--failed", "--plain", "--no-legend"); failed != "" {
		t.Errorf("units have failed:\n%s", failed)
	}
	for _, unit := range []string{agentUnit, edgeUnitName} {
		for _, e := range journal(t, "--priority=err", "--unit="+unit) {
			t.Errorf("%s: %s", unit, e.text("MESSAGE"))
		}
	}
	for _, e := range journal(t, "--dmesg") {
		message := e.text("MESSAGE")
		for _, sign := range []string{"segfault", "general protection", "BUG:", "WARNING:", "Oops", "avc:", "apparmor=\"DENIED\"", "SELinux"} {
			if strings.Contains(message, sign) {
				t.Errorf("kernel: %s", message)
			}
		}
	}
}

// journalFields checks that the agent's lines can be found by their attributes,
// and have the priority of their level.
func journalFields(t *testing.T) {
	// The edge came after the agent.
	missed := journal(t, "BPFACQ_CHANNEL=Private", "--priority=warning")
	if len(missed) == 0 {
		t.Error("no warning has the channel that was down")
	}
	for _, e := range append(missed, journal(t, "BPFACQ_PROFILE="+configured)...) {
		t.Logf("%s: %s", e.text("PRIORITY"), e.text("MESSAGE"))
		if e.text("SYSLOG_IDENTIFIER") != "bpfacq" || e.text("_SYSTEMD_UNIT") != agentUnit {
			t.Errorf("entry is %v", e)
		}
	}
	if applied := journal(t, "BPFACQ_PROFILE="+configured, "PRIORITY=6"); len(applied) == 0 {
		t.Error("no line has the profile in force")
	}
}
