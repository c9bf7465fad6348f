package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/test/testutil"
)

func TestMain(m *testing.M) { os.Exit(testutil.Main(m, nil)) }

// TestDemo plays the demo, whole and cut short, with a freshly built binary.
func TestDemo(t *testing.T) {
	testutil.Privileged(t)
	self := build(t)
	t.Run("shows everything and leaves nothing", func(t *testing.T) { playWhole(t, self) })
	for _, moment := range []string{
		"Three network namespaces", "# An edge is started", "bpfacq run", "SSH-2.0-intranet", "getent", "PREFIX", "gone",
	} {
		t.Run("leaves nothing when interrupted at "+moment, func(t *testing.T) { interrupt(t, self, moment) })
	}
	t.Run("leaves nothing after a panic", func(t *testing.T) { panicking(t, self) })
	t.Run("leaves no process when killed", func(t *testing.T) { kill(t, self) })
	t.Run("says what went wrong", mishaps)
}

// build builds bpfacq. For make cover, it notes what it runs in the folder COVER; a
// script tells it so, since the demo gives its programs an environment of their own.
func build(t *testing.T) string {
	t.Helper()
	self := filepath.Join(t.TempDir(), "bpfacq")
	line, noted := []string{"build", "-o", self}, os.Getenv("COVER")
	if noted != "" {
		line = append(line, "-cover", "-coverpkg=github.com/bpfacq/bpfacq/...")
	}
	out, err := exec.CommandContext(t.Context(), "go", append(line, "../../cmd/bpfacq")...).CombinedOutput()
	if err != nil {
		t.Fatalf("build bpfacq: %v\n%s", err, out)
	}
	if noted == "" {
		return self
	}
	script := fmt.Sprintf("#!/bin/sh\nGOCOVERDIR=%q exec %q \"$@\"\n", noted, self)
	if err := os.WriteFile(self+".sh", []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return self + ".sh"
}

func playWhole(t *testing.T, self string) {
	testutil.Unchanged(t, nil)
	var out strings.Builder
	if err := Run(t.Context(), Options{Out: &out, Self: self}); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	wantNothingLeft(t, out.String())

	text := out.String()
	if strings.Contains(text, "\x1b") {
		t.Error("colours without a terminal")
	}
	// In this order, each after the one before.
	for _, want := range []string{
		"host$ ip route\n10.99.0.0/24 dev uplink",
		"host$ curl -sS http://192.168.11.200/\ncurl: (7)",
		"host$ curl -sS http://wiki.corp.example/\ncurl: (6)",
		"edge$ bpfacq edge ",
		"host$ bpfacq run ",
		"host$ curl -sS http://192.168.11.200/\nHello 192.168.11.1, this is 192.168.11.200:80.\n",
		"SSH-2.0-intranet\n",
		"edge$ curl -sS http://192.168.11.200:81/\nHello ",
		"host$ curl -sS http://192.168.11.200:81/\ncurl: (7)",
		"host$ getent hosts wiki.corp.example\n6.6.",
		"host$ curl -sS http://wiki.corp.example/\nHello 192.168.11.1, this is 192.168.11.200:80.\n",
		"the host's, 10.99.0.53      10.99.0.1     no such name\n",
		"the edge's, 192.168.11.200  192.168.11.1  192.168.11.200\n",
		"host$ getent hosts aps.globalsecureaccess.microsoft.com\n10.99.0.80 ",
		"host$ bpfacq hostnames",
		"wiki.corp.example",
		"host$ bpfacq explain tcp 192.168.11.200:80 --config bpfacq.toml\nverdict    acquire\n",
		"host$ bpfacq explain tcp 192.168.11.200:81 --config bpfacq.toml\nverdict  pass\n",
		"host$ bpfacq flows",
		"192.168.11.200:80",
		"192.168.11.200:22",
		"(wiki.corp.example)",
		"host$ bpfacq maps dump prefix4",
		"192.168.11.0/24",
		"resolv.conf",
		"gone",
	} {
		_, after, found := strings.Cut(text, want)
		if !found {
			t.Errorf("%q does not follow; the whole is\n%s", want, out.String())
			break
		}
		text = after
	}
	if strings.Contains(out.String(), "CHANGED") {
		t.Errorf("the host changed:\n%s", out.String())
	}
}

// trigger is a writer that calls pull once, when what was written has the text.
type trigger struct {
	strings.Builder
	text string
	pull func()
	once sync.Once
}

func (w *trigger) Write(p []byte) (int, error) {
	n, err := w.Builder.Write(p)
	if strings.Contains(w.String(), w.text) {
		w.once.Do(w.pull)
	}
	return n, err
}

func interrupt(t *testing.T, self, moment string) {
	asked := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	out := &trigger{text: moment, pull: func() { cancel(asked) }}
	if err := Run(ctx, Options{Out: out, Self: self}); !errors.Is(err, asked) {
		t.Errorf("got %v, want the cause of the interruption\n%s", err, out.String())
	}
	if strings.Contains(out.String(), "# the log of") {
		t.Error("an interruption is reported as a mishap")
	}
	wantNothingLeft(t, out.String())
}

func panicking(t *testing.T, self string) {
	out := &trigger{text: "SSH-2.0-intranet", pull: func() { panic("on purpose") }}
	defer func() {
		if recover() == nil {
			t.Error("the panic got lost")
		}
		wantNothingLeft(t, out.String())
	}()
	Run(t.Context(), Options{Out: out, Self: self})
}

// wantNothingLeft looks for traces of a demo of this process, which showed out.
func wantNothingLeft(t *testing.T, out string) {
	t.Helper()
	for _, path := range places(t, os.Getpid()) {
		t.Errorf("%s is left", path)
	}
	for _, folder := range regexp.MustCompile(`\S*/`+namePrefix+`[0-9]+-[0-9]+`).FindAllString(out, -1) {
		for pid := range inside(t, strings.Trim(folder, `"`)) {
			t.Errorf("process %s is left", pid)
		}
	}
}

// places lists the cgroups and folders of the demo of a process.
func places(t *testing.T, pid int) []string {
	t.Helper()
	root, err := loader.Cgroup2Root()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, parent := range []string{root, os.TempDir()} {
		paths, err := filepath.Glob(filepath.Join(parent, fmt.Sprintf("%s%d-*", namePrefix, pid)))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, paths...)
	}
	return found
}

// inside yields the processes whose working folder is the given one.
func inside(t *testing.T, folder string) func(yield func(pid string) bool) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	return func(yield func(string) bool) {
		for _, link := range links {
			where, err := os.Readlink(link)
			if err == nil && strings.HasPrefix(where, folder) && !yield(strings.Split(link, "/")[2]) {
				return
			}
		}
	}
}

// kill kills a demo while its programs run. They die with it, and the next demo
// removes what it left.
func kill(t *testing.T, self string) {
	cmd := testutil.Command(t, self, "demo")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "Hello") {
	}
	left := places(t, cmd.Process.Pid)
	cmd.Process.Kill()
	cmd.Wait()
	if len(left) != 2 {
		t.Fatalf("the demo had %q, want a cgroup and a folder", left)
	}

	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	alive := true
	for tries := 0; alive && tries < 3000; tries++ {
		<-poll.C
		alive = false
		for range inside(t, left[1]) {
			alive = true
		}
	}
	if alive {
		t.Error("a program outlives the demo")
	}
	var out strings.Builder
	if err := Run(t.Context(), Options{Out: &out, Self: self}); err != nil {
		t.Errorf("the next demo: %v\n%s", err, out.String())
	}
	for _, path := range places(t, cmd.Process.Pid) {
		t.Errorf("%s is left", path)
	}
}

func mishaps(t *testing.T) {
	for _, test := range []struct{ name, self, want, shown string }{
		{"the edge ends", "/bin/false", "wait for edge: program has ended: exit status 1", "# the log of the edge\n"},
		{"no binary", "/nonexistent/bpfacq", "wait for edge: program has ended: exit status 127", "/nonexistent/bpfacq: not found\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			err := Run(t.Context(), Options{Out: &out, Self: test.self})
			if err == nil || !strings.HasPrefix(err.Error(), test.want) || !strings.Contains(out.String(), test.shown) {
				t.Errorf("got %v, want %s\n%s", err, test.want, out.String())
			}
			wantNothingLeft(t, out.String())
		})
	}
	t.Run("nobody reads", func(t *testing.T) {
		if err := Run(t.Context(), Options{Out: new(deaf), Self: "/bin/false"}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("got %v", err)
		}
		wantNothingLeft(t, "")
	})
}
