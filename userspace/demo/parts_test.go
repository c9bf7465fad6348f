package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/channel"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/netns"
	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/profile"
)

func TestWhatTheMachineLacksIsNamed(t *testing.T) {
	without := func(missing ...string) func(string) (string, error) {
		return func(command string) (string, error) {
			if slices.Contains(missing, command) {
				return "", exec.ErrNotFound
			}
			return "/bin/" + command, nil
		}
	}
	for _, test := range []struct {
		name         string
		uid          int
		resolver     string
		find         func(string) (string, error)
		text, remedy string
	}{
		{name: "nothing", resolver: os.DevNull, find: without()},
		{
			name: "root", uid: 1000, resolver: os.DevNull, find: without(),
			text: "make namespaces and load bpf programs: needs root", remedy: "sudo bpfacq demo",
		},
		{
			name: "commands", resolver: os.DevNull, find: without("curl", "nft"),
			text:   "find curl, nft: not in PATH",
			remedy: "install these, by these or similar names: curl nftables",
		},
		{
			name: "resolv.conf", resolver: "/nonexistent", find: without(),
			text:   "find /nonexistent, in whose place programs see the demo's: not there",
			remedy: "make an empty one",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := checkMachine(test.uid, test.resolver, test.find)
			if test.text == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			lack, ok := errors.AsType[*lackError](err)
			if !ok || lack.Error() != test.text || lack.Remedy() != test.remedy {
				t.Errorf("got %+v", err)
			}
		})
	}
}

func TestConfigurationLeadsTheSamplesEdgeToTheDemos(t *testing.T) {
	sample := sampleProfile(t)
	root, err := os.CreateTemp(t.TempDir(), "pins")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	s := &scene{folder: "/tmp/demo \"1\"", cgroup: "/sys/fs/cgroup/demo", pins: root}
	got, err := config.Parse([]byte(s.configuration(edgeHosts(sample.Policy))), "bpfacq.toml")
	if err != nil {
		t.Fatal(err)
	}

	want := config.Default()
	want.Profile, want.StateDir = s.folder+"/profile.json", s.folder+"/state"
	want.Kernel.Cgroup, want.Kernel.Pins = s.cgroup, root.Name()+"/bpfacq"
	want.Edges.Allow, want.Edges.CAFile = []string{edgeNames}, s.folder+"/edge.pem"
	want.Edges.Addresses = map[string]string{sample.Policy.Channels[0].Primary[0].Host: edgeTunnels}
	want.Control.Socket = s.folder + "/control.sock"
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}

	allowed, err := channel.ParseAllowList(got.Edges.Allow)
	if err != nil {
		t.Fatal(err)
	}
	for name := range maps.Keys(got.Edges.Addresses) {
		if !allowed.Allows(name) {
			t.Errorf("edge %q is not allowed", name)
		}
	}
}

func sampleProfile(t *testing.T) *profile.Profile {
	t.Helper()
	p, err := profile.Parse(strings.NewReader(profile.Sample))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSampleTunnelsWhatTheDemoFetches(t *testing.T) {
	p := sampleProfile(t).Policy
	for port, want := range map[uint16]policy.Verdict{
		80: policy.VerdictAcquire, 22: policy.VerdictAcquire, 81: policy.VerdictPass,
	} {
		got := p.Match(policy.Flow{Protocol: policy.TCP, Addr: netip.MustParseAddr(intranetAddr), Port: port})
		if got.Verdict != want {
			t.Errorf("port %d: %v, want %v", port, got.Verdict, want)
		}
	}
}

func TestNameRuleComesAfterThoseOfTheSample(t *testing.T) {
	text, err := withNameRule()
	if err != nil {
		t.Fatal(err)
	}
	p, err := profile.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	sample := sampleProfile(t).Policy.Rules
	n := len(sample)
	if len(p.Policy.Rules) != n+1 || p.Policy.Rules[n-1].ID != sample[n-1].ID {
		t.Fatalf("got %d rules, want the sample's %d and one", len(p.Policy.Rules), n)
	}
	last := p.Policy.Rules[n]
	if last.ID != "demo-names" || last.Order <= sample[n-1].Order || last.Action != policy.ActionTunnel || len(last.Names) != 1 ||
		!slices.Equal(last.Ports, []policy.PortRange{{First: 80, Last: 80}}) {
		t.Errorf("last rule is %+v", last)
	}
}

func TestResolverKnowsItsNamesAndWhoAsked(t *testing.T) {
	testutil.Privileged(t)
	ns := testutil.Netns(t)
	r, err := openResolver(t.Context(), ns, "127.0.0.1", map[string]netip.Addr{"a.example": netip.MustParseAddr("192.0.2.1")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.close() })
	stub := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return ns.DialContext(ctx, "udp", "127.0.0.1:53")
	}}
	got, err := stub.LookupNetIP(t.Context(), "ip", "A.example.")
	if err != nil || len(got) != 1 || got[0].Unmap() != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("got %v, %v, want the address alone", got, err)
	}
	got, err = stub.LookupNetIP(t.Context(), "ip", "b.example.")
	if missing, ok := errors.AsType[*net.DNSError](err); !ok || !missing.IsNotFound {
		t.Errorf("got %v, %v, want no such name", got, err)
	}
	for name, want := range map[string]string{"a.example": "[127.0.0.1]", "b.example": "[127.0.0.1]", "c.example": "[]"} {
		if clients := fmt.Sprint(r.clients(name)); clients != want {
			t.Errorf("%s was asked for by %s, want %s", name, clients, want)
		}
	}
}

func TestOutputIsJudged(t *testing.T) {
	st := step{status: 7, want: []string{"two", "four"}, wantNot: []string{"five"}}
	for _, test := range []struct {
		name, text string
		status     int
		want       string
	}{
		{"as it must be", "one two\nfour", 7, ""},
		{"other status", "one two\nfour", 0, "exit status is 0, want 7"},
		{"something missing", "one two", 7, `output lacks "four"`},
		{"something too much", "one two\nfour five", 7, `output has "five"`},
	} {
		if got := fmt.Sprint(st.judge(test.text, test.status)); got != test.want && (test.want != "" || got != "<nil>") {
			t.Errorf("%s: got %s, want %q", test.name, got, test.want)
		}
	}
}

func TestReadyMeansThatFlowsAreCarried(t *testing.T) {
	ready := func() control.Status {
		return control.Status{
			Profile:  &control.Profile{},
			Channels: []control.Channel{{State: "up"}},
			Lease:    control.Lease{Fresh: true},
		}
	}
	for _, test := range []struct {
		name   string
		change func(*control.Status)
		want   bool
	}{
		{"ready", func(*control.Status) {}, true},
		{"no policy", func(s *control.Status) { s.Profile = nil }, false},
		{"not announced", func(s *control.Status) { s.Lease.Fresh = false }, false},
		{"channel connecting", func(s *control.Status) { s.Channels[0].State = "connecting" }, false},
		{"no channel", func(s *control.Status) { s.Channels = nil }, false},
	} {
		s := ready()
		test.change(&s)
		if got := acquiring(s); got != test.want {
			t.Errorf("%s: %t, want %t", test.name, got, test.want)
		}
	}
}

func TestComparisonShowsWhatChanged(t *testing.T) {
	before := netns.Snapshot{Links: "1 lo\n", Routes: "a\n"}
	now := before
	now.Routes = "b\n"
	for _, row := range comparison(before, now)[1:] {
		want := "same"
		if row[0] == "routes" {
			want = "CHANGED"
		}
		if row[4] != want || (row[2] == row[3]) != (want == "same") {
			t.Errorf("row %q, want %s", row, want)
		}
	}
}

func TestOnlyThePlacesOfEndedDemosAreStale(t *testing.T) {
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	stale := fmt.Sprintf("%s%d-1", namePrefix, ended.Process.Pid)
	for _, name := range []string{
		stale,
		fmt.Sprintf("%s%d-1", namePrefix, os.Getpid()),
		fmt.Sprintf("%s%d", namePrefix, ended.Process.Pid),
		fmt.Sprintf("x%s%d-1", namePrefix, ended.Process.Pid),
		namePrefix + "x-1", namePrefix + "0-1", namePrefix + "-1-1", "other",
	} {
		if err := os.Mkdir(filepath.Join(parent, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/", filepath.Join(parent, stale+"-link")); err != nil {
		t.Fatal(err)
	}
	got, err := stalePlaces(parent)
	if want := []string{filepath.Join(parent, stale)}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestEverythingIsUndoneBackwardsAndOnce(t *testing.T) {
	var u undo
	var order []int
	for i := range 3 {
		u.later(func() error {
			order = append(order, i)
			return fmt.Errorf("remove %d", i)
		})
	}
	err := u.all()
	if err == nil || err.Error() != "remove 2\nremove 1\nremove 0" || !slices.Equal(order, []int{2, 1, 0}) {
		t.Errorf("order %v, %v", order, err)
	}
	if err := u.all(); err != nil || len(order) != 3 {
		t.Errorf("a second time: order %v, %v", order, err)
	}
}

func TestCommandLinesAreQuotedForAShell(t *testing.T) {
	for _, line := range [][]string{
		{"curl", "-sS", "http://192.168.11.200:81/"},
		{"bash", "-c", "head -1 </dev/tcp/192.168.11.200/22"},
		{"printf", "", "it's", "$HOME", "a b", "*", "192.168.11.0/24:*"},
	} {
		out, err := exec.Command("sh", "-c", `printf '%s\n' `+shellLine(line)).Output()
		if want := strings.Join(line, "\n") + "\n"; err != nil || string(out) != want {
			t.Errorf("%s: a shell reads %q, %v, want %q", shellLine(line), out, err, want)
		}
	}
	if got := shellLine([]string{"ip", "route"}); got != "ip route" {
		t.Errorf("got %q, want no quotes", got)
	}
}

func TestScreenIsPlainUnlessItIsATerminal(t *testing.T) {
	var out bytes.Buffer
	s := newScreen(&out)
	s.comment("what")
	s.command(station{name: "host"}, "ip route")
	s.output("one  \r\n" + strings.Repeat("x", 500))
	want := "\n# what\nhost$ ip route\none\n" + strings.Repeat("x", 500) + "\n"
	if out.String() != want || s.err != nil {
		t.Errorf("got %q, %v", out.String(), s.err)
	}

	out.Reset()
	s.colours, s.width = true, 4
	s.command(station{name: "host"}, "ip route")
	s.output("three\n" + s.cut("öne\ntwöo\nthree\n"))
	if want := bold + "host$ ip route" + plain + "\nthree\nöne\ntwöo\nthr…\n"; out.String() != want {
		t.Errorf("on a terminal: %q, want %q", out.String(), want)
	}
}

// deaf is a writer that takes one line.
type deaf struct{ lines int }

func (d *deaf) Write(p []byte) (int, error) {
	if d.lines++; d.lines > 1 {
		return 0, os.ErrClosed
	}
	return len(p), nil
}

func TestScreenKeepsTheFirstError(t *testing.T) {
	d := new(deaf)
	s := newScreen(d)
	for range 5 {
		s.text("line")
	}
	if !errors.Is(s.err, os.ErrClosed) || d.lines != 2 {
		t.Errorf("%d lines, %v", d.lines, s.err)
	}
}

func TestJournalKeepsTheBeginning(t *testing.T) {
	var j journal
	for i := range 3 {
		text := strings.Repeat(fmt.Sprint(i), maxJournal/2+1)
		if n, err := j.Write([]byte(text)); n != len(text) || err != nil {
			t.Errorf("write %d: %d, %v", i, n, err)
		}
	}
	if got := j.String(); len(got) != maxJournal || !strings.HasPrefix(got, "0") || !strings.HasSuffix(got, "1") {
		t.Errorf("%d bytes, from %q to %q", len(got), got[:1], got[len(got)-1:])
	}
}
