package testutil

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	os.Exit(Main(m, map[string]Scenario{
		"membership": membership,
		"ask":        ask,
		"fail":       func([]string, io.Writer) error { return errors.New("refuse to work") },
	}))
}

// membership tells in which cgroup2 cgroup the process is.
func membership(_ []string, stdout io.Writer) error {
	lines, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(lines)) {
		if path, found := strings.CutPrefix(line, "0::"); found {
			_, err := io.WriteString(stdout, path)
			return err
		}
	}
	return errors.New("find cgroup2 membership: none")
}

// ask connects to its argument and copies what it is told.
func ask(args []string, stdout io.Writer) error {
	conn, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.(*net.TCPConn).CloseWrite()
	_, err = io.Copy(stdout, conn)
	return err
}

// verdict is a testing.TB that notes how the test would have ended.
type verdict struct {
	testing.TB
	texts []string
}

func (v *verdict) Helper()           {}
func (v *verdict) Fatal(args ...any) { v.texts = append(v.texts, "fatal: "+fmt.Sprint(args...)) }
func (v *verdict) Skip(args ...any)  { v.texts = append(v.texts, "skip: "+fmt.Sprint(args...)) }

func TestMissingPrivilegeFailsOnlyInCI(t *testing.T) {
	for _, test := range []struct {
		ci   bool
		want string
	}{
		{ci: true, want: "fatal: needs root"},
		{ci: false, want: "skip: needs root"},
	} {
		var got verdict // the first text counts: a real test would be over
		refuse(&got, test.ci, "needs root")
		if got.texts[0] != test.want {
			t.Errorf("CI %t: got %q, want %q", test.ci, got.texts[0], test.want)
		}
	}
}

func TestProgramsOfAdministratorsAreFound(t *testing.T) {
	t.Setenv("PATH", "/nowhere")
	if got := Program(t, "nft"); !strings.HasSuffix(got, "/sbin/nft") {
		t.Errorf("got %q", got)
	}
}

func TestKernelReleasesCompareByNumber(t *testing.T) {
	for _, test := range []struct {
		release string
		older   bool
	}{
		{"5.13.19-generic", true},
		{"5.14.0", false},
		{"5.4.0-200-generic", true},
		{"4.19.0", true},
		{"6.1.0-46-cloud-amd64", false},
		{"10.0", false},
	} {
		older, err := olderThan(test.release, 5, 14)
		if err != nil || older != test.older {
			t.Errorf("%s before 5.14: got %t, %v, want %t", test.release, older, err, test.older)
		}
	}
	if _, err := olderThan("current", 5, 14); err == nil {
		t.Error("a release without numbers was understood")
	}
}

func TestCgroup2IsFoundInEveryLayout(t *testing.T) {
	const (
		unified = `30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate`
		legacy  = `32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu`
		hybrid  = `41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw`
		blank   = `41 31 0:38 / /mnt/my\040groups rw - cgroup2 none rw`
		decoy   = `50 31 0:40 / /mnt/cgroup2 rw - tmpfs cgroup2 rw`
	)
	for _, test := range []struct{ name, mounts, want string }{
		{"unified", unified, "/sys/fs/cgroup"},
		{"hybrid", legacy + "\n" + hybrid, "/sys/fs/cgroup/unified"},
		{"blank in the path", blank, "/mnt/my groups"},
		{"legacy only", legacy, ""},
		{"another filesystem of that name", decoy, ""},
		{"no mounts", "", ""},
	} {
		got, err := cgroup2Mount(strings.NewReader(test.mounts))
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s: got %q, %v, want %q", test.name, got, err, test.want)
		}
	}
}

func TestChildIsInItsCgroup(t *testing.T) {
	cgroup := Cgroup(t)
	got := Child(t, nil, cgroup, "membership")
	if want := cgroup[strings.LastIndex(cgroup, "/"):] + "\n"; !strings.HasSuffix(got, want) {
		t.Errorf("child is in %q, want …%q", got, want)
	}
	if own := Child(t, nil, "", "membership"); own == got {
		t.Errorf("child without a cgroup is in %q, too", own)
	}
}

func TestCgroupGoesWithItsProcesses(t *testing.T) {
	Privileged(t)
	var (
		cgroup string
		exited = make(chan error, 1)
	)
	t.Run("user", func(t *testing.T) {
		cgroup = Cgroup(t)
		nested := cgroup + "/nested"
		if err := os.Mkdir(nested, 0o755); err != nil {
			t.Fatal(err)
		}
		// Started without Start, so only the cgroup's end ends it.
		cmd := Command(t, "sleep", "600")
		InCgroup(t, cmd, nested)
		cmd.Cancel = func() error { return nil }
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { exited <- cmd.Wait() }()
	})
	if err := <-exited; err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("process in the cgroup ended by %v, want killed", err)
	}
	if _, err := os.Stat(cgroup); !os.IsNotExist(err) {
		t.Errorf("cgroup is still there: %v", err)
	}
}

func TestChildIsInItsNamespace(t *testing.T) {
	ns := Netns(t)
	addr := Banner(t, ns, "127.0.0.1:7", "hello\n") // a port that nobody outside is given
	if got := Child(t, ns, Cgroup(t), "ask", addr.String()); got != "hello\n" {
		t.Errorf("child inside heard %q", got)
	}
	_, err := Output(t, nil, "", ScenarioCommand(t, "ask", addr.String()))
	if err == nil {
		t.Error("a child outside reached the namespace's loopback")
	}
}

func TestScenarioErrorsShow(t *testing.T) {
	for _, name := range []string{"fail", "unheard-of"} {
		if stdout, err := Output(t, nil, "", ScenarioCommand(t, name)); err == nil || stdout != "" {
			t.Errorf("scenario %s: got %q, %v, want an error", name, stdout, err)
		}
	}
}

func TestBPFFSIsPrivate(t *testing.T) {
	path := BPFFS(t)
	if entries, err := os.ReadDir(path); err != nil || len(entries) != 0 {
		t.Errorf("got %v, %v, want an empty folder", entries, err)
	}
	// The loader's way: make a folder, then rename it to its place.
	if err := os.Mkdir(path+"/new", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"/new", path+"/bpfacq"); err != nil {
		t.Fatal(err)
	}
	seen, err := Output(t, nil, "", Command(t, "stat", "--file-system", "--format=%T", path+"/bpfacq"))
	if err != nil || seen != "bpf_fs\n" {
		t.Errorf("another process sees %q, %v", seen, err)
	}
	if other, err := os.ReadDir(BPFFS(t)); err != nil || len(other) != 0 {
		t.Errorf("a second bpffs holds %v, %v", other, err)
	}
	for _, table := range []string{"/proc/self/mountinfo", "/proc/1/mountinfo"} {
		if mounts, err := os.ReadFile(table); err == nil && strings.Contains(string(mounts), path) {
			t.Errorf("%s shows the mount", table)
		}
	}
}

func TestDescriptorLeakIsNoticed(t *testing.T) {
	before, err := descriptors()
	if err != nil {
		t.Fatal(err)
	}
	if err := before.leaked(); err != nil {
		t.Errorf("nothing leaked: %v", err)
	}
	file, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	if err := before.leaked(); err == nil || !strings.Contains(err.Error(), "1 × /dev/zero") {
		t.Errorf("got %v, want /dev/zero named", err)
	}
	file.Close()
	if err := before.leaked(); err != nil {
		t.Errorf("all is closed: %v", err)
	}
}

func TestWaitListeningReturnsOnceThereIsAListener(t *testing.T) {
	ns := Netns(t)
	waiting := make(chan struct{})
	go func() {
		defer close(waiting)
		WaitListening(t, ns, "127.0.0.1:7")
	}()
	select {
	case <-waiting:
		t.Fatal("returned without a listener")
	default:
	}
	Echo(t, ns, "127.0.0.1:7")
	<-waiting
	if _, err := ns.DialContext(context.Background(), "tcp", "127.0.0.1:9"); err == nil {
		t.Error("connected to a port without a listener")
	}
}
