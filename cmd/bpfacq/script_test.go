package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

// leakChecked is a run of tests that fails if it leaves a goroutine behind.
type leakChecked struct{ *testing.M }

func (m leakChecked) Run() int {
	if code := m.M.Run(); code != 0 {
		return code
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// The scripts find bpfacq in their path: it is this test binary under another
// name, which then runs main.
func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){"bpfacq": main})
}

// The scripts run the command as its users do: command lines with the output that
// they must have. None needs a privilege. "UPDATE=1 go test ./cmd/bpfacq" rewrites
// the expected output.
func TestScripts(t *testing.T) {
	profile, err := os.ReadFile("../../userspace/profile/testdata/gsa-forwarding-profile.json")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                "../../test/script",
		RequireUniqueNames: true,
		UpdateScripts:      os.Getenv("UPDATE") != "",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"agent":   startAgent,
			"mistake": mistake,
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "UTC")
			return os.WriteFile(filepath.Join(env.WorkDir, "sample.json"), profile, 0o600)
		},
	})
}

// mistake is the script command
//
//	mistake COMMAND ARGUMENT...
//
// It runs a command line that is wrong: the exit status must be 2 and nothing may
// be on standard output. What is on standard error goes to the end of mistakes.txt,
// below the command line.
func mistake(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: mistake COMMAND ARGUMENT...")
	}
	err := ts.Exec(args[0], args[1:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 2 {
		ts.Fatalf("%q: %v, want exit status 2", args, err)
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("%q: standard output is %q, want none", args, out)
	}
	f, err := os.OpenFile(ts.MkAbs("mistakes.txt"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	_, err = fmt.Fprintf(f, "$ %s\n%s", strings.Join(args, " "), ts.ReadFile("stderr"))
	ts.Check(errors.Join(err, f.Close()))
}
