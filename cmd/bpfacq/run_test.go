package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/agent"
	"github.com/bpfacq/bpfacq/userspace/supervisor"
)

// supervised starts a service manager that takes the test for its service, and
// returns what it has been told so far.
func supervised(t *testing.T) (told func() []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return func() (all []string) {
		err := raw.Read(func(fd uintptr) bool {
			buffer := make([]byte, 4096)
			for { // what was sent is there: the two ends of the socket are on one host
				n, err := unix.Read(int(fd), buffer)
				if err != nil {
					return true
				}
				all = append(all, string(buffer[:n]))
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
}

func TestRunTellsTheServiceManager(t *testing.T) {
	told := supervised(t)
	t.Setenv("WATCHDOG_USEC", "15000000")
	got := execute(t.Context(), func(e *env) {
		e.agent = func(_ context.Context, start agent.Options) error {
			if start.Watchdog != 15*time.Second {
				t.Errorf("watchdog of %v, want 15s", start.Watchdog)
			}
			if socket, ok := os.LookupEnv("NOTIFY_SOCKET"); ok {
				t.Errorf("what the agent starts would inherit NOTIFY_SOCKET=%s", socket)
			}
			start.Notify(supervisor.Notice{Stage: supervisor.StageStarting, Status: "loading programs"})
			start.Notify(supervisor.Notice{Stage: supervisor.StageReady, Status: "acquiring"})
			return nil
		}
	}, "run")
	if got != (result{}) {
		t.Errorf("run = %+v, want silence", got)
	}
	if diff := cmp.Diff([]string{"STATUS=loading programs", "READY=1\nSTATUS=acquiring"}, told()); diff != "" {
		t.Errorf("(-want +told):\n%s", diff)
	}
}

func TestRunSaysWhyItFails(t *testing.T) {
	told := supervised(t)
	execute(t.Context(), func(e *env) {
		e.agent = func(context.Context, agent.Options) error {
			return fmt.Errorf("load datapath: %w", os.NewSyscallError("bpf", syscall.EPERM))
		}
	}, "run")
	if diff := cmp.Diff([]string{"STATUS=failed: load datapath: bpf: operation not permitted\nERRNO=1"}, told()); diff != "" {
		t.Errorf("agent (-want +told):\n%s", diff)
	}

	told = supervised(t)
	execute(t.Context(), nil, "run", "--config", "/nonexistent/other.toml")
	want := []string{"STATUS=failed: read configuration: open /nonexistent/other.toml: no such file or directory\nERRNO=2"}
	if diff := cmp.Diff(want, told()); diff != "" {
		t.Errorf("configuration (-want +told):\n%s", diff)
	}
}

func TestServiceManagerThatIsGoneIsAWarning(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	t.Setenv("WATCHDOG_USEC", "soon")
	got := execute(t.Context(), func(e *env) {
		e.agent = func(_ context.Context, start agent.Options) error {
			start.Notify(supervisor.Notice{Stage: supervisor.StageReady})
			return nil
		}
	}, "run")
	warnings := regexp.MustCompile(`^bpfacq: warning: read the patience of the watchdog: .*
bpfacq: warning: notify the supervisor: .*: no such file or directory
$`)
	if got.status != 0 || got.stdout != "" || !warnings.MatchString(got.stderr) {
		t.Errorf("run = %+v, want two warnings", got)
	}
}

func TestErrorsHaveTheirPriorityInTheJournal(t *testing.T) {
	got := execute(t.Context(), func(e *env) {
		e.journaled = true
		e.agent = func(context.Context, agent.Options) error { return mustBeRoot{os.ErrPermission} }
	}, "run")
	want := result{1, "", "<3>bpfacq: error: permission denied\n<5>bpfacq: hint: run as root\n"}
	if got != want {
		t.Errorf("run = %+v, want %+v", got, want)
	}
}
