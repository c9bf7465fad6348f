package host

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/control"
)

const (
	agentUnit    = "bpfacq.service"
	edgeUnitName = "bpfacq-edge.service"
)

// patience is how long a condition may take to come true. Emulated machines are
// slow, and systemd waits between restarts.
const patience = time.Minute

// command runs a command, which must succeed, and returns what it printed.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := testutil.Command(t, name, args...)
	cmd.Dir = work
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// shell runs lines as a user would type them.
func shell(t *testing.T, lines string) string {
	t.Helper()
	return command(t, "bash", "-euo", "pipefail", "-c", lines)
}

// properties asks systemd about a unit.
func properties(t *testing.T, unit string, names ...string) map[string]string {
	t.Helper()
	values := make(map[string]string)
	for line := range strings.Lines(command(t, "systemctl", "show", "--property="+strings.Join(names, ","), unit)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		values[name] = value
	}
	return values
}

// number is a property that counts something.
func number(t *testing.T, values map[string]string, name string) int {
	t.Helper()
	n, err := strconv.Atoi(values[name])
	if err != nil {
		t.Fatalf("%s is %q, want a number", name, values[name])
	}
	return n
}

// until waits for a condition to come true.
func until(t *testing.T, condition func() error) {
	t.Helper()
	deadline := time.After(patience)
	retry := time.NewTicker(200 * time.Millisecond)
	defer retry.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("after %v: %v", patience, err)
		case <-retry.C:
		}
	}
}

// status asks the agent.
func status(t *testing.T) control.Status {
	t.Helper()
	s, err := control.NewClient("/run/bpfacq/control.sock").Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// hooks are the programs that the agent says are attached, by attach point, but for
// those of its own devices, which do not outlive it.
func hooks(t *testing.T) map[string]uint32 {
	t.Helper()
	uplink, err := net.InterfaceByName(direct)
	if err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]uint32)
	for _, hook := range status(t).Hooks {
		if _, device, ok := strings.Cut(hook.AttachPoint, " of device "); !ok || device == strconv.Itoa(uplink.Index) {
			ids[hook.AttachPoint] = hook.ID
		}
	}
	return ids
}

// wantUnit checks what systemd says of a unit, now.
func wantUnit(t *testing.T, unit, state string) {
	t.Helper()
	if got := properties(t, unit, "ActiveState")["ActiveState"]; got != state {
		t.Errorf("%s is %s, want %s", unit, got, state)
	}
}

// fetch asks the target's web server on a port, and returns which way the
// question went.
func fetch(ctx context.Context, port int) (way string, err error) {
	client := http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(target, strconv.Itoa(port)), nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return strings.TrimSpace(string(text)), err
}

// wantWay checks which way flows to a port go, now.
func wantWay(t *testing.T, port int, way string) {
	t.Helper()
	if got, err := fetch(t.Context(), port); got != way || err != nil {
		t.Errorf("port %d: answer %q, %v, want %q", port, got, err, way)
	}
}

// untilWay waits until flows to a port go a way.
func untilWay(t *testing.T, port int, way string) {
	t.Helper()
	until(t, func() error {
		got, err := fetch(t.Context(), port)
		if err == nil && got != way {
			err = fmt.Errorf("port %d: answer %q, want %q", port, got, way)
		}
		return err
	})
}
