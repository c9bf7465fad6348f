package supervisor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// supervise starts a service manager that the test takes for its own, and that says
// what it was told.
func supervise(t *testing.T, name string) func() string {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	return func() string {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 4096)
		n, err := conn.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		return string(buffer[:n])
	}
}

func fromEnvironment(t *testing.T) *Supervisor {
	t.Helper()
	m, err := FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestNoticesAreSentInTheManagersWords(t *testing.T) {
	told := supervise(t, filepath.Join(t.TempDir(), "notify"))
	m := fromEnvironment(t)
	for _, test := range []struct {
		notice Notice
		want   string
	}{
		{Notice{Stage: StageStarting, Status: "loading programs"}, "STATUS=loading programs"},
		{Notice{Stage: StageReady, Status: "acquiring"}, "READY=1\nSTATUS=acquiring"},
		{Notice{Status: "channel up"}, "STATUS=channel up"},
		{Notice{Alive: true}, "WATCHDOG=1"},
		{
			Notice{Stage: StageStopping, Status: "draining 2 flows", Alive: true, Extend: 1500 * time.Millisecond},
			"STOPPING=1\nSTATUS=draining 2 flows\nWATCHDOG=1\nEXTEND_TIMEOUT_USEC=1500000",
		},
		{Notice{Status: "failed", Err: fmt.Errorf("listen: %w", os.NewSyscallError("bind", syscall.EADDRINUSE))}, "STATUS=failed\nERRNO=98"},
		{Notice{Status: "failed", Err: errors.New("without a number")}, "STATUS=failed"},
	} {
		if err := m.Notify(test.notice); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, told()); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", test.notice, diff)
		}
	}
}

func TestReloadsAreToldApartByTheirTime(t *testing.T) {
	told := supervise(t, filepath.Join(t.TempDir(), "notify"))
	m := fromEnvironment(t)
	var last uint64
	for range 2 {
		if err := m.Notify(Notice{Stage: StageReloading}); err != nil {
			t.Fatal(err)
		}
		match := regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=(\d+)$`).FindStringSubmatch(told())
		if match == nil {
			t.Fatal("no time beside RELOADING")
		}
		at, err := strconv.ParseUint(match[1], 10, 64)
		if err != nil || at <= last {
			t.Errorf("reload at %q, %v, want later than %d", match[1], err, last)
		}
		last = at
	}
}

// A channel's name comes out of a profile, and a line of a notice can name another
// process as the main one.
func TestForeignTextIsNotTakenForAnAssignment(t *testing.T) {
	told := supervise(t, filepath.Join(t.TempDir(), "notify"))
	m := fromEnvironment(t)
	for _, test := range []struct{ name, status, want string }{
		{"line break", "up\nMAINPID=1", "STATUS=up; MAINPID=1"},
		{"control characters", "a\rb\x1b[2J\x00c\u2028d", "STATUS=a b [2J c d"},
		{"not UTF-8", "a\xffb", "STATUS=a b"},
		{"long", strings.Repeat("é", 1000), "STATUS=" + strings.Repeat("é", 510) + "…"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := m.Notify(Notice{Status: test.status}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, told()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAbstractSocketIsReached(t *testing.T) {
	told := supervise(t, fmt.Sprintf("@bpfacq-supervisor-%d", os.Getpid()))
	if err := fromEnvironment(t).Notify(Notice{Stage: StageReady}); err != nil {
		t.Fatal(err)
	}
	if got := told(); got != "READY=1" {
		t.Errorf("told %q, want READY=1", got)
	}
}

func TestStartedProcessesDoNotInheritTheManager(t *testing.T) {
	supervise(t, filepath.Join(t.TempDir(), "notify"))
	t.Setenv("WATCHDOG_USEC", "3000000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	if m := fromEnvironment(t); m.Watchdog != 3*time.Second {
		t.Errorf("watchdog waits %v, want 3s", m.Watchdog)
	}
	for _, variable := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		if value, ok := os.LookupEnv(variable); ok {
			t.Errorf("%s is still %q", variable, value)
		}
	}
	if m := fromEnvironment(t); *m != (Supervisor{}) {
		t.Errorf("a started process finds %+v, want nobody", m)
	}
}

func TestWatchdogOfAnotherProcessIsNotFed(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "3000000")
	t.Setenv("WATCHDOG_PID", "1")
	if m := fromEnvironment(t); m.Watchdog != 0 {
		t.Errorf("watchdog waits %v, want for ever", m.Watchdog)
	}
	t.Setenv("WATCHDOG_USEC", "soon")
	if m, err := FromEnvironment(); err == nil || m == nil || m.Watchdog != 0 {
		t.Errorf("got %+v, %v, want a manager that watches for nothing, and a complaint", m, err)
	}
}

func TestWithoutAManagerNobodyIsTold(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := fromEnvironment(t).Notify(Notice{Stage: StageReady}); err != nil {
		t.Error(err)
	}
}

func TestManagerThatIsGoneIsAnError(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	if err := fromEnvironment(t).Notify(Notice{Stage: StageReady}); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("got %v, want ENOENT", err)
	}
}
