package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/userspace/agent"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/demo"
	"github.com/bpfacq/bpfacq/userspace/doctor"
)

// result is what a command line left behind.
type result struct {
	status         int
	stdout, stderr string
}

// execute runs a command line in a world where everything fails that the test
// does not replace.
func execute(ctx context.Context, change func(*env), args ...string) result {
	var stdout, stderr bytes.Buffer
	unexpected := errors.New("unexpected call")
	e := &env{
		stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr,
		config: "/nonexistent/bpfacq.toml",
		agent:  func(context.Context, agent.Options) error { return unexpected },
		demo:   func(context.Context, demo.Options) error { return unexpected },
		pinned: func(string) (pinned, error) { return nil, unexpected },
		detach: func(string) (bool, error) { return false, unexpected },

		examine: func(context.Context, string, bool) *doctor.Report { return new(doctor.Report) },
	}
	if change != nil {
		change(e)
	}
	status := run(ctx, e, args)
	return result{status, stdout.String(), stderr.String()}
}

// walk visits every command below root, and root.
func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, sub := range cmd.Commands() {
		walk(sub, visit)
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	root := newRoot(&env{stdout: io.Discard, stderr: io.Discard})
	root.InitDefaultHelpCmd()
	walk(root, func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || strings.ToUpper(cmd.Short[:1]) != cmd.Short[:1] {
			t.Errorf("%s: short description is %q, want a capital and no full stop", path, cmd.Short)
		}
		if !strings.HasSuffix(cmd.Long, ".") {
			t.Errorf("%s: description is %q, want sentences", path, cmd.Long)
		}
		for line := range strings.SplitSeq(cmd.Example, "\n") {
			if !strings.HasPrefix(line, "  ") || !strings.Contains(line, "bpfacq ") {
				t.Errorf("%s: example %q, want an indented command line", path, line)
			}
		}
		for _, flag := range []string{"-h", "--help"} {
			args := append(strings.Fields(path)[1:], flag)
			got := execute(t.Context(), nil, args...)
			if got.status != 0 || got.stderr != "" || !strings.HasPrefix(got.stdout, cmd.Long+"\n\nUsage:\n  "+path) {
				t.Errorf("%s %s = %+v, want its help", path, flag, got)
			}
		}
	})
}

func TestReadmeListsEveryCommand(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	walk(newRoot(&env{}), func(cmd *cobra.Command) {
		if path := cmd.CommandPath(); !cmd.HasSubCommands() && !strings.Contains(string(readme), path) {
			t.Errorf("README.md does not name %q", path)
		}
	})
}

func TestReadingCommandsAnswerInTwoForms(t *testing.T) {
	var got []string
	walk(newRoot(&env{}), func(cmd *cobra.Command) {
		if cmd.Flags().Lookup("output") != nil {
			got = append(got, cmd.CommandPath())
		}
	})
	want := []string{
		"bpfacq dns query", "bpfacq dns status", "bpfacq doctor", "bpfacq explain", "bpfacq flows", "bpfacq hostnames",
		"bpfacq maps dump", "bpfacq policy show", "bpfacq profile check",
		"bpfacq rules", "bpfacq status", "bpfacq version",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("commands with -o (-want +got):\n%s", diff)
	}
}

func TestRunHandsOverTheConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bpfacq.toml")
	if err := os.WriteFile(path, []byte("profile = '/p.json'\n[log]\nlevel = 'warn'\nformat = 'json'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := execute(t.Context(), func(e *env) {
		e.agent = func(_ context.Context, start agent.Options) error {
			if start.Config.Profile != "/p.json" || start.Version == "" || start.Watchdog != 0 {
				t.Errorf("the agent is started with %+v", start)
			}
			if err := os.WriteFile(path, []byte("profile = '/q.json'\n"), 0o600); err != nil {
				t.Error(err)
			}
			if again, err := start.Reread(); err != nil || again.Profile != "/q.json" {
				t.Errorf("read again, the configuration is %+v, %v", again, err)
			}
			start.Log.Info("one")
			start.Log.Warn("two")
			start.LogLevel.Set(-4)
			start.Log.Debug("three")
			return nil
		}
	}, "run", "--config", path)
	if got.status != 0 || got.stdout != "" {
		t.Errorf("run = %+v", got)
	}
	for _, test := range []struct {
		text   string
		logged bool
	}{{`"msg":"one"`, false}, {`"msg":"two"`, true}, {`"msg":"three"`, true}} {
		if strings.Contains(got.stderr, test.text) != test.logged {
			t.Errorf("log is %s: %s logged, want %v", got.stderr, test.text, test.logged)
		}
	}
}

func TestRunReadsAFileThatIsMadeLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bpfacq.toml")
	got := execute(t.Context(), func(e *env) {
		e.config = path
		e.agent = func(_ context.Context, start agent.Options) error {
			if diff := cmp.Diff(config.Default(), *start.Config); diff != "" {
				t.Errorf("without a file (-default +got):\n%s", diff)
			}
			for _, step := range []struct{ file, profile string }{
				{"", config.Default().Profile}, {"profile = '/p.json'", "/p.json"}, {"profile = 7", ""},
			} {
				if step.file != "" {
					if err := os.WriteFile(path, []byte(step.file), 0o600); err != nil {
						t.Error(err)
					}
				}
				again, err := start.Reread()
				if (err != nil) != (step.profile == "") || err == nil && again.Profile != step.profile {
					t.Errorf("with %q: %+v, %v, want profile %q", step.file, again, err, step.profile)
				}
			}
			return nil
		}
	}, "run")
	if got != (result{}) {
		t.Errorf("run = %+v, want silence", got)
	}
}

func TestRunPassesHangupsOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bpfacq.toml")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got := execute(t.Context(), func(e *env) {
		e.agent = func(ctx context.Context, start agent.Options) error {
			for range 3 {
				if err := unix.Kill(os.Getpid(), unix.SIGHUP); err != nil {
					return err
				}
				select {
				case <-start.Reload:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		}
	}, "run", "--config", path)
	if got != (result{}) {
		t.Errorf("run = %+v, want silence", got)
	}
}

// mustBeRoot is an error as the loader makes it.
type mustBeRoot struct{ error }

func (mustBeRoot) Remedy() string { return "run as root" }

func TestErrorsOfTheAgentKeepTheirRemedy(t *testing.T) {
	got := execute(t.Context(), func(e *env) {
		e.agent = func(context.Context, agent.Options) error {
			return errors.Join(mustBeRoot{errors.New("load programs")}, errors.New("close pins"))
		}
	}, "run")
	want := result{1, "", "bpfacq: error: load programs\nbpfacq: error: close pins\nbpfacq: hint: run as root\n"}
	if got != want {
		t.Errorf("run = %+v, want %+v", got, want)
	}
}

func TestDemoShowsOnStandardOutput(t *testing.T) {
	got := execute(t.Context(), func(e *env) {
		e.demo = func(_ context.Context, start demo.Options) error {
			if self, err := os.Executable(); err != nil || start.Self != self {
				t.Errorf("the demo runs %q, want %q, %v", start.Self, self, err)
			}
			_, err := io.WriteString(start.Out, "step 1\n")
			return err
		}
	}, "demo")
	if want := (result{0, "step 1\n", ""}); got != want {
		t.Errorf("demo = %+v, want %+v", got, want)
	}
}

func TestDetachSaysWhatItDid(t *testing.T) {
	for _, test := range []struct {
		name  string
		found bool
		err   error
		want  result
	}{
		{"pinned", true, nil, result{0, "detached the datapath that was pinned at /pins\n", ""}},
		{"not pinned", false, nil, result{0, "nothing to detach: no datapath is pinned at /pins\n", ""}},
		{"in use", false, mustBeRoot{errors.New("lock /pins")}, result{1, "", "bpfacq: error: lock /pins\nbpfacq: hint: run as root\n"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := execute(t.Context(), func(e *env) {
				e.detach = func(pins string) (bool, error) {
					if pins != "/pins" {
						t.Errorf("detach of %q", pins)
					}
					return test.found, test.err
				}
			}, "detach", "--all", "--pins", "/pins")
			if got != test.want {
				t.Errorf("detach = %+v, want %+v", got, test.want)
			}
		})
	}
}

// fakePins has the same rows in every map.
type fakePins struct {
	rows [][]any
	err  error // after the rows
}

func (f *fakePins) Dump(name string) (maps.Dump, error) {
	return maps.Dump{Map: name, Columns: []string{"prefix", "rule_id"}, Rows: func(yield func([]any, error) bool) {
		for _, r := range f.rows {
			if !yield(r, nil) {
				return
			}
		}
		if f.err != nil {
			yield(nil, f.err)
		}
	}}, nil
}

func (*fakePins) Close() error { return nil }

func TestMapsAreDumpedInTwoForms(t *testing.T) {
	pins := &fakePins{rows: [][]any{{"10.0.0.0/8", uint32(7)}, {"2001:db8::/32", uint32(12)}}}
	open := func(e *env) { e.pinned = func(string) (pinned, error) { return pins, nil } }
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"prefix4"}, "PREFIX         RULE ID\n10.0.0.0/8     7\n2001:db8::/32  12\n"},
		{[]string{"prefix4", "-o", "json"}, `{
  "schema": 1,
  "pins": "/pins",
  "maps": {
    "prefix4": [
      {
        "prefix": "10.0.0.0/8",
        "rule_id": 7
      },
      {
        "prefix": "2001:db8::/32",
        "rule_id": 12
      }
    ]
  }
}
`},
	} {
		got := execute(t.Context(), open, append([]string{"maps", "dump", "--pins", "/pins"}, test.args...)...)
		if diff := cmp.Diff(result{0, test.want, ""}, got, cmp.AllowUnexported(result{})); diff != "" {
			t.Errorf("maps dump %v (-want +got):\n%s", test.args, diff)
		}
	}
}

func TestAllMapsAreDumpedUnderTheirNames(t *testing.T) {
	pins := &fakePins{rows: [][]any{{"10.0.0.0/8", uint32(7)}}}
	got := execute(t.Context(), func(e *env) { e.pinned = func(string) (pinned, error) { return pins, nil } }, "maps", "dump", "--pins", "/pins")
	var want []string
	for _, name := range maps.Names() {
		want = append(want, name+":\nPREFIX      RULE ID\n10.0.0.0/8  7\n")
	}
	if diff := cmp.Diff(result{0, strings.Join(want, "\n"), ""}, got, cmp.AllowUnexported(result{})); diff != "" {
		t.Errorf("maps dump (-want +got):\n%s", diff)
	}
}

func TestAMapThatEndsInAnErrorIsNoAnswer(t *testing.T) {
	pins := &fakePins{rows: [][]any{{"10.0.0.0/8", uint32(7)}}, err: errors.New("walk prefixes")}
	got := execute(t.Context(), func(e *env) { e.pinned = func(string) (pinned, error) { return pins, nil } }, "maps", "dump", "prefix4", "--pins", "/pins")
	if want := (result{1, "", "bpfacq: error: dump map prefix4: walk prefixes\n"}); got != want {
		t.Errorf("maps dump = %+v, want %+v", got, want)
	}
}

func TestSizesAreShort(t *testing.T) {
	for bytes, want := range map[uint64]string{
		0: "0 B", 9_999: "9999 B", 10_000: "10 KiB", 10_239_487: "9999 KiB", 10_239_488: "10 MiB",
		1 << 40: "1024 GiB", 1<<64 - 1: "16 EiB",
	} {
		if got := size(bytes); got != want {
			t.Errorf("size(%d) = %q, want %q", bytes, got, want)
		}
	}
}
