// Package doctor examines a host: whether it has what bpfacq needs, how bpfacq
// does on it, and what else on it acquires or routes traffic. It changes nothing
// and needs no agent; without root, some checks end as unknown.
package doctor

import (
	"context"
	"io/fs"
	"net/netip"
	"strings"

	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// Host is what the checks look at.
type Host struct {
	// Root is the file system, with /proc and /sys. Links are followed where
	// it has fs.ReadLinkFS.
	Root fs.FS

	// Config is the absolute path of the configuration. The file may be
	// missing unless ConfigNamed says that somebody asked for it.
	Config      string
	ConfigNamed bool

	Kernel Kernel

	// Network reads the links and rules of the network namespace.
	Network func() (*Network, error)

	// Agent asks the agent at a socket for its state.
	Agent func(ctx context.Context, socket string) (control.Status, error)

	// Resolve asks for the IPv4 addresses of a name as an application would.
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)

	// Run runs a program that only reads and returns its standard output. The
	// error matches exec.ErrNotFound if the host lacks it.
	Run func(ctx context.Context, name string, args ...string) ([]byte, error)
}

// Kernel answers what only the loader may ask. An error that matches
// fs.ErrPermission is taken for a lack of privilege.
type Kernel interface {
	// Usable reports whether this process can load programs and make maps.
	Usable() error

	// Ladder lists the features of the kernel.
	Ladder() []Feature

	// Hooks lists the names of the programs that are attached by the pins in
	// a folder. None is no error.
	Hooks(pins string) ([]string, error)

	// ForeignOnCgroups lists the programs of others on a cgroup and below.
	ForeignOnCgroups(root string) ([]Foreign, error)

	// ForeignOnDevice lists those on a network device.
	ForeignOnDevice(index int) ([]Foreign, error)
}

// Feature is something that newer kernels have.
type Feature struct {
	ID        string
	Have      string // yes, no or unknown
	Gives     string
	Otherwise string
	Err       error // why Have is unknown
}

// Foreign is a BPF program of somebody else.
type Foreign struct {
	Name      string // may be empty
	Attach    string // the hook
	Place     string // the folder of the cgroup, empty for a device
	Exclusive bool   // no other program can be attached to this hook there
}

// check looks at one thing.
type check struct {
	id  string
	run func(context.Context, *examination) []Finding
}

// checks are in the order in which one is to read them: what comes first may be
// the cause of what comes later.
func checks() []check {
	one := func(f func(*examination) Finding) func(context.Context, *examination) []Finding {
		return func(_ context.Context, x *examination) []Finding { return []Finding{f(x)} }
	}
	some := func(f func(*examination) []Finding) func(context.Context, *examination) []Finding {
		return func(_ context.Context, x *examination) []Finding { return f(x) }
	}
	return []check{
		{"kernel", one(checkKernel)},
		{"capabilities", one(checkCapabilities)},
		{"bpf", one(checkBPF)},
		{"btf", one(checkBTF)},
		{"jit", one(checkJIT)},
		{"unprivileged-bpf", one(checkUnprivileged)},
		{"lockdown", one(checkLockdown)},
		{"lsm", one(checkLSM)},
		{"memlock", one(checkMemlock)},
		{"cgroup2", one(checkCgroup2)},
		{"configuration", some(checkConfiguration)},
		{"cgroup", one(checkCgroup)},
		{"bpffs", one(checkBPFFS)},
		{"profile", some(checkProfile)},
		{"pins", one(checkPins)},
		{"agent", checkAgent},
		{"packets", some(checkPackets)},
		{"dns", some(checkDNS)},
		{"synthetic-pool", some(checkPool)},
		{"nsswitch", some(checkSwitch)},
		{"hosts-file", some(checkHostsFile)},
		{"systemd-resolved", checkResolved},
		{"name", checkName},
		{"feature", some(checkFeatures)},
		{"cgroup-programs", some(checkCgroupPrograms)},
		{"device-programs", some(checkDevicePrograms)},
		{"tun", some(checkTUN)},
		{"wireguard", some(checkWireGuard)},
		{"policy-routing", some(checkRouting)},
		{"nftables", checkNftables},
		{"iptables", checkIptables},
		{"flowtables", checkFlowtables},
	}
}

// examination is a host with what several checks need of it.
type examination struct {
	Host
	release  string
	mounts   []mount
	process  process
	config   config.Config // what is configured, or the defaults
	problem  error         // of the configuration
	features []Feature
	policy   *policy.Policy  // of the configured profile, nil if it is not valid
	agent    *control.Status // nil if none answers
	hooks    []string        // what is attached
	network  *Network
	netErr   error

	flowtables string // whether nftables has flowtables: yes, no, or empty
	opaque     bool   // nftables has rules that only iptables-save can show
}

// Examine runs all checks. It ends early, with unknown findings, when ctx does.
func Examine(ctx context.Context, h Host) *Report {
	x := &examination{Host: h, release: firstLine(h.Root, "proc/sys/kernel/osrelease")}
	x.mounts = readMounts(h.Root)
	x.process = readProcess(h.Root) // before the ladder, which lifts a limit
	x.config, x.problem = readConfig(h)
	x.features = h.Kernel.Ladder()
	x.network, x.netErr = h.Network()

	r := &Report{Schema: Schema, Kernel: x.release}
	for _, c := range checks() {
		for _, f := range c.run(ctx, x) {
			if f.ID == "" {
				f.ID = c.id
			}
			f.Cause = strings.ReplaceAll(f.Cause, "\n", "; ")
			r.Findings = append(r.Findings, f)
		}
	}
	r.State = worst(r.Findings)
	return r
}
