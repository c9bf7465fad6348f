package testutil

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/userspace/netns"
)

// scenarioKey is the environment variable that makes a test binary run a
// scenario instead of its tests.
const scenarioKey = "BPFACQ_SCENARIO"

// Scenario is what a child process of a test does, in the test's own code. What
// it writes to stdout is what the test judges; its error fails the test.
type Scenario func(args []string, stdout io.Writer) error

// Command returns a command that is killed at the end of the test, shortly
// before the test binary's own time limit, and when the test process dies. Its
// stderr goes to the test's log.
func Command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx := t.Context()
	if limited, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if deadline, ok := limited.Deadline(); ok {
			const report = 5 * time.Second // to say what hung
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, deadline.Add(-report))
			t.Cleanup(cancel)
		}
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = t.Output()
	cmd.WaitDelay = time.Second // for a grandchild that keeps a pipe open
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// ScenarioCommand returns a command that runs the named scenario of the table
// given to [Main].
func ScenarioCommand(t testing.TB, scenario string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := Command(t, "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(),
		scenarioKey+"="+scenario,
		"GORACE=atexit_sleep_ms=0", // the race detector would wait for a second
	)
	return cmd
}

// Start starts cmd in the namespace and the cgroup. At the end of the test it
// is killed, if need be, and waited for; the test may wait for it earlier.
func Start(t testing.TB, ns *netns.Namespace, cgroup string, cmd *exec.Cmd) {
	t.Helper()
	if cgroup != "" {
		InCgroup(t, cmd, cgroup)
	}
	if err := start(ns, cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Wait's error is the kill, or that the test has waited before.
		cmd.Process.Kill()
		cmd.Wait()
	})
}

// Output runs cmd in the namespace and the cgroup, and returns its stdout and
// how it ended.
func Output(t testing.TB, ns *netns.Namespace, cgroup string, cmd *exec.Cmd) (string, error) {
	t.Helper()
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	Start(t, ns, cgroup, cmd)
	err := cmd.Wait()
	return stdout.String(), err
}

// Child runs the named scenario as a process in the namespace and the cgroup,
// and returns its stdout. A scenario that fails, fails the test.
func Child(t testing.TB, ns *netns.Namespace, cgroup, scenario string, args ...string) string {
	t.Helper()
	stdout, err := Output(t, ns, cgroup, ScenarioCommand(t, scenario, args...))
	if err != nil {
		t.Fatalf("scenario %s: %v; stdout %q", scenario, err, stdout)
	}
	return stdout
}

// runScenario is the whole life of a child process.
func runScenario(scenario Scenario, args []string) error {
	if scenario == nil {
		return errors.New("find scenario: not in the table given to Main")
	}
	if err := scenario(args, os.Stdout); err != nil {
		return fmt.Errorf("run scenario: %w", err)
	}
	return nil
}
