package cache

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listen makes a socket that answers, as a daemon's does while it runs.
func listen(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return path
}

// left is a socket whose daemon is gone.
func left(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// script makes a program of a shell's commands. It finds its folder in $HERE.
func script(t *testing.T, commands string) (path, folder string) {
	t.Helper()
	folder = t.TempDir()
	path = filepath.Join(folder, "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nHERE="+folder+"\n"+commands+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path, folder
}

const remember = `echo "$LC_ALL $*" >> "$HERE/calls"`

func calls(t *testing.T, folder string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, "calls"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func TestDaemonsThatRunAreToldOnce(t *testing.T) {
	one, oneFolder := script(t, remember)
	two, twoFolder := script(t, remember)
	err := flush(t.Context(), time.Minute, []daemon{
		{listen(t), []string{one, "flush-caches"}}, {listen(t), []string{two, "--invalidate=hosts"}},
	})
	if err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"C flush-caches"}, calls(t, oneFolder)); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"C --invalidate=hosts"}, calls(t, twoFolder)); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestDaemonsThatDoNotRunAreLeftAlone(t *testing.T) {
	program, folder := script(t, remember)
	err := flush(t.Context(), time.Minute, []daemon{
		{filepath.Join(t.TempDir(), "none"), []string{program, "absent"}}, {left(t), []string{program, "stopped"}},
	})
	if err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{""}, calls(t, folder)); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestOneThatFailsDoesNotStopAnother(t *testing.T) {
	good, folder := script(t, remember)
	bad, _ := script(t, "echo no bus >&2; exit 3")
	silent, _ := script(t, "exit 4")
	err := flush(t.Context(), time.Minute, []daemon{
		{listen(t), []string{bad}}, {listen(t), []string{"bpfacq-no-such-program"}}, {listen(t), []string{silent}}, {listen(t), []string{good}},
	})
	want := "run " + bad + ": exit status 3: no bus\n" +
		`run bpfacq-no-such-program: exec: "bpfacq-no-such-program": executable file not found in $PATH` + "\n" +
		"run " + silent + ": exit status 4"
	if err == nil || err.Error() != want || !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("error is %v, want %s", err, want)
	}
	if got := calls(t, folder); len(got) != 1 || got[0] == "" {
		t.Errorf("the good one was called %q", got)
	}
}

func TestASocketThatIsNoneIsAnError(t *testing.T) {
	program, folder := script(t, remember)
	err := flush(t.Context(), time.Minute, []daemon{{"/dev/null/socket", []string{program}}})
	if err == nil || !strings.Contains(err.Error(), "reach /dev/null/socket: ") {
		t.Errorf("error is %v, want what is wrong with the socket", err)
	}
	if diff := cmp.Diff([]string{""}, calls(t, folder)); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// A child that outlives the program holds its standard output open.
func TestADaemonThatHangsIsNotWaitedFor(t *testing.T) {
	program, _ := script(t, "sleep 60 & echo $! > \"$HERE/child\"; wait")
	start := time.Now()
	err := flush(t.Context(), 300*time.Millisecond, []daemon{{listen(t), []string{program}}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want that of the deadline", err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if child, err := os.ReadFile(filepath.Join(filepath.Dir(program), "child")); err == nil {
		_ = exec.Command("kill", strings.TrimSpace(string(child))).Run()
	}
}

func TestAContextThatEndedRunsNothing(t *testing.T) {
	program, folder := script(t, remember)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := flush(ctx, time.Minute, []daemon{{listen(t), []string{program}}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want that of the context", err)
	}
	if diff := cmp.Diff([]string{""}, calls(t, folder)); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}
