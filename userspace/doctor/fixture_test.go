package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/control"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a host that tests make up. It is its own kernel.
type fixture struct {
	files     fstest.MapFS
	forbidden map[string]bool

	usable   error
	features []Feature
	hooks    []string
	hooksErr error
	cgroups  []Foreign
	cgErr    error
	devices  map[int][]Foreign
	devErr   error
	network  Network
	netErr   error
	status   control.Status
	agentErr error
	programs map[string]string // what they write, by name or by name and first argument
	runErr   error
	named    bool

	resolved   []netip.Addr // what every name resolves to
	resolveErr error
	asked      []string // names that were resolved
}

// well is a host on which every check ends as ok.
func well(t *testing.T) *fixture {
	t.Helper()
	profile, err := os.ReadFile("../profile/testdata/gsa-forwarding-profile.json")
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{
		files:     fstest.MapFS{},
		forbidden: map[string]bool{},
		features:  []Feature{{"memcg", "yes", "with it", "without it", nil}, {"tcx", "yes", "links", "filters", nil}},
		hooks:     []string{"bpfacq_connect4", "bpfacq_connect6"},
		network:   Network{Links: []Link{{Index: 1, Name: "lo", Kind: "device"}, {Index: 2, Name: "eth0", Kind: "device", Uplink: true}}},
		status: control.Status{
			Version: "1.2.3", PID: 42, Generation: 7, Profile: &control.Profile{ID: "p"}, Lease: control.Lease{Fresh: true},
			Channels: []control.Channel{{ID: "xxxxxxxx-xxxx-xxxx-xxxx-2a8ff07f474c", Name: "Private", State: "up"}},
			Packets:  control.Packets{On: true, Uplinks: []control.Uplink{{Name: "eth0", Links: "tcx"}}},
			DNS:      control.DNS{On: true, Pool: control.Pool{Capacity: 65533, Used: 3}},
		},
		resolved: []netip.Addr{netip.MustParseAddr("6.6.0.1")},
		programs: map[string]string{"nft": `{"nftables": []}`},
	}
	for path, content := range map[string]string{
		"proc/sys/kernel/osrelease":                 "6.12.117+deb12-cloud-amd64\n",
		"proc/sys/kernel/unprivileged_bpf_disabled": "2\n",
		"proc/sys/net/core/bpf_jit_enable":          "1\n",
		"proc/self/status":                          "Name:\tbpfacq\nCapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\n",
		"proc/self/limits":                          "Limit                     Soft Limit           Hard Limit           Units     \nMax locked memory         65536                65536                bytes     \n",
		"proc/self/mountinfo": "22 1 0:20 / /proc rw shared:1 - proc proc rw\n" +
			"23 1 0:21 / /sys rw shared:2 - sysfs sysfs rw\n" +
			"24 23 0:22 / /sys/kernel/security rw - securityfs securityfs rw\n" +
			"25 23 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n" +
			"26 23 0:24 / /sys/fs/bpf rw - bpf bpf rw,mode=700\n",
		"sys/kernel/btf/vmlinux":       "",
		"sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
		"sys/kernel/security/lsm":      "lockdown,capability,apparmor,bpf",
		"sys/fs/cgroup/cgroup.procs":   "",
		"etc/bpfacq/bpfacq.toml":       "[edges]\nallow = [" + quotedEdges() + "]\n",
		"etc/bpfacq/profile.json":      string(profile),
		"etc/nsswitch.conf":            "passwd: files\n# hosts: none\nhosts:          files mdns4_minimal [NOTFOUND=return] dns # all\n",
		"etc/hosts":                    "127.0.0.1 localhost\n::1 localhost ip6-localhost # " + acquiredName + "\n\n",
	} {
		f.write(path, content)
	}
	return f
}

// acquiredName is the one name that the sample profile acquires.
const acquiredName = "private.edgediagnostic.globalsecureaccess.microsoft.com"

// quotedEdges are those of the sample profile.
func quotedEdges() string { return `"*.globalsecureaccess.microsoft.com"` }

func (f *fixture) write(path, content string) {
	f.files[path] = &fstest.MapFile{Data: []byte(content), Mode: 0o644}
}

func (f *fixture) link(path, target string) {
	f.files[path] = &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
}

// replace changes a part of a file.
func (f *fixture) replace(t *testing.T, path, old, new string) {
	t.Helper()
	content := string(f.files[path].Data)
	if !strings.Contains(content, old) {
		t.Fatalf("%s lacks %q", path, old)
	}
	f.write(path, strings.ReplaceAll(content, old, new))
}

// unprivileged takes away what root has.
func (f *fixture) unprivileged(t *testing.T) {
	t.Helper()
	f.replace(t, "proc/self/status", "CapEff:\t000001ffffffffff", "CapEff:\t0000000000000000")
}

// Open implements fs.FS.
func (f *fixture) Open(name string) (fs.File, error) {
	if f.forbidden[name] {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return f.files.Open(name)
}

func (f *fixture) ReadLink(name string) (string, error)       { return f.files.ReadLink(name) }
func (f *fixture) Lstat(name string) (fs.FileInfo, error)     { return f.files.Lstat(name) }
func (f *fixture) Usable() error                              { return f.usable }
func (f *fixture) Ladder() []Feature                          { return f.features }
func (f *fixture) Hooks(string) ([]string, error)             { return f.hooks, f.hooksErr }
func (f *fixture) ForeignOnCgroups(string) ([]Foreign, error) { return f.cgroups, f.cgErr }
func (f *fixture) ForeignOnDevice(i int) ([]Foreign, error)   { return f.devices[i], f.devErr }

func (f *fixture) resolve(_ context.Context, name string) ([]netip.Addr, error) {
	f.asked = append(f.asked, name)
	return f.resolved, f.resolveErr
}

func (f *fixture) run(_ context.Context, name string, args ...string) ([]byte, error) {
	out, ok := f.programs[name]
	if len(args) > 0 && !ok {
		out, ok = f.programs[name+" "+args[0]]
	}
	if !ok {
		return nil, fmt.Errorf("find %s: %w", name, exec.ErrNotFound)
	}
	return []byte(out), f.runErr
}

func (f *fixture) examine(t *testing.T) *Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return Examine(ctx, Host{
		Root: f, Config: config.Path, ConfigNamed: f.named, Kernel: f,
		Network: func() (*Network, error) { return &f.network, f.netErr },
		Agent:   func(context.Context, string) (control.Status, error) { return f.status, f.agentErr },
		Resolve: f.resolve,
		Run:     f.run,
	})
}

func noAgent(errno syscall.Errno) error { return &control.UnreachableError{Socket: "/s", Err: errno} }

// changed are the findings of b that a does not have.
func changed(a, b *Report) []Finding {
	known := make(map[Finding]bool)
	for _, f := range a.Findings {
		known[f] = true
	}
	var all []Finding
	for _, f := range b.Findings {
		if !known[f] {
			all = append(all, f)
		}
	}
	return all
}
