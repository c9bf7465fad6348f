package host

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/profile"
)

const configured = "/etc/bpfacq/profile.json"

// killed checks that systemd starts an agent again whatever ended it, and that
// the new one takes over what the old one had attached. SIGABRT is what the
// watchdog sends; a Go program ends by it as by a panic, with exit code 2.
func killed(t *testing.T) {
	for _, signal := range []string{"KILL", "ABRT"} {
		attached, before := hooks(t), properties(t, agentUnit, "NRestarts", "MainPID")
		shell(t, "systemctl kill --kill-who=main --signal="+signal+" bpfacq")
		until(t, func() error {
			now := properties(t, agentUnit, "NRestarts", "MainPID", "ActiveState")
			if now["NRestarts"] == before["NRestarts"] || now["ActiveState"] != "active" {
				return fmt.Errorf("after SIG%s the unit is %v, was %v", signal, now, before)
			}
			return nil
		})
		if now := hooks(t); !maps.Equal(now, attached) {
			t.Errorf("after SIG%s programs are %v, were %v", signal, now, attached)
		}
	}
	channelUp(t)
	tunnelAndBypass(t)
}

func restarted(t *testing.T) {
	before := properties(t, agentUnit, "MainPID")["MainPID"]
	shell(t, "systemctl restart bpfacq")
	if now := properties(t, agentUnit, "MainPID")["MainPID"]; now == before {
		t.Errorf("process %s runs on", now)
	}
	channelUp(t)
	tunnelAndBypass(t)
}

// killForGood kills the agent, which is not started again until back is called.
func killForGood(t *testing.T) (back func()) {
	t.Helper()
	const file = "/run/systemd/system/bpfacq.service.d/once.conf"
	write(t, file, "[Service]\nRestart=no\n")
	shell(t, "systemctl daemon-reload; systemctl kill --kill-who=main --signal=KILL bpfacq")
	return func() {
		shell(t, "rm -r "+filepath.Dir(file)+"; systemctl daemon-reload; systemctl reset-failed bpfacq; systemctl start bpfacq")
		channelUp(t)
	}
}

// reloaded checks that a changed profile is in force as soon as the reload is
// done, and that the agent runs on.
func reloaded(t *testing.T) {
	before := properties(t, agentUnit, "MainPID")["MainPID"]
	good, err := os.ReadFile(configured)
	if err != nil {
		t.Fatal(err)
	}
	write(t, configured, withPorts(t, bypassPort))
	shell(t, "systemctl reload bpfacq")
	wantWay(t, bypassPort, viaEdge)
	wantWay(t, tunnelPort, direct)
	write(t, configured, string(good))
	shell(t, "systemctl reload bpfacq")
	if now := properties(t, agentUnit, "MainPID")["MainPID"]; now != before {
		t.Errorf("process was %s, is %s", before, now)
	}
	tunnelAndBypass(t)
}

// reloadRefused checks that the reload of a broken profile fails and changes
// nothing.
func reloadRefused(t *testing.T) {
	good, err := os.ReadFile(configured)
	if err != nil {
		t.Fatal(err)
	}
	write(t, configured, "{")
	shell(t, "! systemctl reload bpfacq")
	tunnelAndBypass(t)
	write(t, configured, string(good))
	shell(t, "systemctl reload bpfacq")
	tunnelAndBypass(t)
}

// withPorts is the sample profile whose rule for the target names one port.
func withPorts(t *testing.T, port int) string {
	t.Helper()
	var document map[string]any
	if err := json.Unmarshal([]byte(profile.Sample), &document); err != nil {
		t.Fatal(err)
	}
	rules := document["policy"].(map[string]any)["rules"].([]any)
	criteria := rules[len(rules)-1].(map[string]any)["matchingCriteria"].(map[string]any)
	criteria["ports"] = []any{map[string]any{"start": port, "end": port}}
	text, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// managerReloaded checks that systemd, which has BPF programs of its own on
// cgroups, leaves the agent and its programs alone.
func managerReloaded(t *testing.T) {
	attached, before := hooks(t), properties(t, agentUnit, "MainPID")["MainPID"]
	shell(t, "systemctl daemon-reload")
	if now := properties(t, agentUnit, "MainPID")["MainPID"]; now != before {
		t.Errorf("process was %s, is %s", before, now)
	}
	if now := hooks(t); !maps.Equal(now, attached) {
		t.Errorf("programs were %v, are %v", attached, now)
	}
	tunnelAndBypass(t)
}

// frozen checks that flows follow their rule's hardening, which for the sample is
// the direct way, soon after the agent was stopped in its tracks, and that it
// takes up its work when it may.
func frozen(t *testing.T) {
	before := properties(t, agentUnit, "MainPID")["MainPID"]
	shell(t, "systemctl freeze bpfacq")
	untilWay(t, tunnelPort, direct)
	shell(t, "systemctl thaw bpfacq")
	untilWay(t, tunnelPort, viaEdge)
	if now := properties(t, agentUnit, "MainPID")["MainPID"]; now != before {
		t.Errorf("process was %s, is %s", before, now)
	}
	tunnelAndBypass(t)
}
