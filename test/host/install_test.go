package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/netns"
	"github.com/bpfacq/bpfacq/userspace/profile"
)

// edgeName is the edge that the sample profile names.
func edgeName(t *testing.T) string {
	t.Helper()
	p, err := profile.Parse(strings.NewReader(profile.Sample))
	if err != nil {
		t.Fatal(err)
	}
	return p.Policy.Channels[0].Primary[0].Host
}

// install does what the readme says to a host that has a profile and trusts an
// edge, and starts the edge only then.
func install(t *testing.T) {
	// Who edits the configuration names the edge, and changes nothing else.
	t.Setenv("SUDO_EDITOR", `sed -i s/^allow.*/allow=["`+edgeName(t)+`"]/`)
	for i, line := range installCommands(t) {
		t.Logf("$ %s\n%s", line, shell(t, line))
		if i == 0 {
			nothingRuns(t)
		}
	}
	wantUnit(t, agentUnit, "active")
	shell(t, "install -m 600 "+edgeFolder+"/certificate.pem /etc/bpfacq/edge.pem; install -m 600 "+edgeFolder+"/certificate.pem.key /etc/bpfacq/edge.key")
	write(t, "/etc/bpfacq/edge.env", `EDGE_OPTIONS="--listen `+edgeAddress+` --allow `+target+`:80,81,82"`+"\n")
	shell(t, "systemctl enable --now bpfacq-edge")
}

// nothingRuns checks that a package that is not configured starts nothing.
func nothingRuns(t *testing.T) {
	t.Helper()
	for _, unit := range []string{agentUnit, edgeUnitName} {
		got := properties(t, unit, "LoadState", "ActiveState", "UnitFileState")
		if got["LoadState"] != "loaded" || got["ActiveState"] != "inactive" || got["UnitFileState"] != "disabled" {
			t.Errorf("%s is %v after the installation, want it loaded, inactive and disabled", unit, got)
		}
	}
	if left, _ := filepath.Glob("/sys/fs/bpf/bpfacq*"); left != nil {
		t.Errorf("pins after the installation: %q", left)
	}
}

const (
	edgeFolder   = kept + "/edge"        // keeps the edge's certificate
	edgeResolver = kept + "/resolv.conf" // the edge's namespace has a resolver of its own
)

// prepareHost makes of the host what the readme takes for granted: it has the
// profile, and knows and trusts the edge that the profile names. The edge's unit
// will run in the edge's namespace.
func prepareHost(t *testing.T) {
	t.Helper()
	name := edgeName(t)
	if err := os.MkdirAll(edgeFolder, 0o700); err != nil {
		t.Fatal(err)
	}
	roots, err := os.ReadFile(testutil.NewAuthority(t).WriteFiles(t, edgeFolder, name).Roots)
	if err != nil {
		t.Fatal(err)
	}
	appendTo(t, "/etc/ssl/certs/ca-certificates.crt", string(roots))
	address, _, _ := strings.Cut(edgeAddress, ":")
	appendTo(t, "/etc/hosts", address+" "+name+"\n")
	write(t, "/etc/systemd/system/bpfacq-edge.service.d/namespace.conf",
		"[Unit]\nRequires=site.service\nAfter=site.service\n"+
			"[Service]\nNetworkNamespacePath=/run/netns/edge\nBindReadOnlyPaths="+edgeResolver+":/etc/resolv.conf\n")
	// Emulated processors are slow, more so on a machine that is busy.
	write(t, "/etc/systemd/system/bpfacq.service.d/patience.conf", "[Service]\nTimeoutStartSec=5min\nWatchdogSec=2min\n")
	write(t, edgeResolver, "nameserver 127.0.0.1\n")
	write(t, sample, withDatagrams(t))
}

// edgeUnit checks that the edge runs as its own user, and that the agent finds
// it though it came later.
func edgeUnit(t *testing.T) {
	wantUnit(t, edgeUnitName, "active")
	pid := properties(t, edgeUnitName, "MainPID")["MainPID"]
	if owner := strings.TrimSpace(command(t, "ps", "-o", "user:32=", "-p", pid)); owner != "bpfacq-edge" {
		t.Errorf("the edge runs as %q", owner)
	}
	channelUp(t)
}

func channelUp(t *testing.T) {
	t.Helper()
	until(t, func() error {
		for _, channel := range status(t).Channels {
			if channel.State != "up" {
				return fmt.Errorf("channel %s is %s: %s", channel.Name, channel.State, channel.Cause)
			}
		}
		return nil
	})
}

// statusText checks that systemctl status says what the agent is about.
func statusText(t *testing.T) {
	got := properties(t, agentUnit, "Type", "StatusText", "WatchdogUSec")
	t.Logf("status: %s", got["StatusText"])
	if got["Type"] != "notify" || got["StatusText"] == "" || got["WatchdogUSec"] == "0" {
		t.Errorf("got %v, want a unit that notifies, with a status and a watchdog", got)
	}
}

// tunnelAndBypass checks that what the profile tunnels goes through the edge,
// what it does not name goes directly, and the agent knows of the first alone.
func tunnelAndBypass(t *testing.T) {
	wantUnit(t, agentUnit, "active")
	wantUnit(t, edgeUnitName, "active")
	untilWay(t, tunnelPort, viaEdge)
	carried := func() uint64 {
		f := status(t).Flows
		return f.Active + f.Closed + f.Reset
	}
	before := carried()
	wantWay(t, tunnelPort, viaEdge)
	wantWay(t, bypassPort, direct)
	if n := carried() - before; n != 1 {
		t.Errorf("the agent carried %d flows, want 1", n)
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// networkState reads what the agent must not touch.
func networkState(t *testing.T) netns.Snapshot {
	t.Helper()
	return testutil.HostState(t, nil)
}
