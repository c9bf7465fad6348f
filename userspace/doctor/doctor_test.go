package doctor

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/userspace/control"
)

func TestAHostThatIsWellHasNothingToDo(t *testing.T) {
	r := well(t).examine(t)
	for _, f := range r.Findings {
		// The sample profile has a few fields that nothing reads.
		if f.State != StateOK && f.ID != "profile" || f.Remedy != "" && f.ID != "profile" {
			t.Errorf("%+v, want ok without a remedy", f)
		}
	}
	if r.Schema != 1 || r.Kernel != "6.12.117+deb12-cloud-amd64" {
		t.Errorf("report is of %q, schema %d", r.Kernel, r.Schema)
	}
	var got []string
	for _, f := range r.Findings {
		got = append(got, f.ID)
	}
	want := strings.Fields(`kernel capabilities bpf btf jit unprivileged-bpf lockdown lsm memlock cgroup2 configuration cgroup bpffs
		profile pins agent packets dns synthetic-pool nsswitch hosts-file systemd-resolved name feature-memcg feature-tcx cgroup-programs device-programs tun wireguard policy-routing nftables iptables flowtables`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
}

// Each row changes the host that is well in one way. The checks that are named
// must find it, and no other check may find anything new.
func TestWhatIsOddIsFound(t *testing.T) {
	const mountinfo = "proc/self/mountinfo"
	forbid := func(path string) func(*testing.T, *fixture) {
		return func(_ *testing.T, f *fixture) { f.forbidden[path] = true }
	}
	write := func(path, content string) func(*testing.T, *fixture) {
		return func(_ *testing.T, f *fixture) { f.write(path, content) }
	}
	remove := func(path string) func(*testing.T, *fixture) {
		return func(_ *testing.T, f *fixture) { delete(f.files, path) }
	}
	for _, test := range []struct {
		name   string
		change func(*testing.T, *fixture)
		want   []string // id, state, and how the cause begins
	}{
		{"old kernel", write("proc/sys/kernel/osrelease", "5.4.0-42-generic\n"), []string{"kernel failure Linux 5.4.0-42-generic is older than 5.10"}},
		{"floor", write("proc/sys/kernel/osrelease", "5.10.0-46-amd64\n"), []string{"kernel ok Linux 5.10.0-46-amd64"}},
		{"no release", remove("proc/sys/kernel/osrelease"), []string{`kernel unknown kernel release is ""`}},

		{"container without privileges", func(t *testing.T, f *fixture) {
			f.replace(t, "proc/self/status", "CapBnd:\t000001ffffffffff", "CapBnd:\t00000000a80425fb")
		}, []string{"capabilities failure not even root has here what the agent needs: CAP_BPF (to load programs), CAP_NET_ADMIN"}},
		{"all that the agent's unit leaves it", func(t *testing.T, f *fixture) {
			f.replace(t, "proc/self/status", "CapEff:\t000001ffffffffff", "CapEff:\t0000000000200000")
			f.replace(t, "proc/self/status", "CapBnd:\t000001ffffffffff", "CapBnd:\t0000000000200000")
		}, nil},
		{"no proc", remove("proc/self/status"), []string{
			"capabilities unknown /proc/self/status shows no capabilities",
			"nftables unknown rules of nftables", "iptables unknown rules of iptables",
		}},

		{"bpf refused", func(_ *testing.T, f *fixture) { f.usable = syscall.EPERM }, []string{"bpf failure the kernel refuses bpf(2) to a process with all privileges"}},
		{"no bpf", func(_ *testing.T, f *fixture) { f.usable = syscall.ENOSYS }, []string{"bpf failure function not implemented"}},
		{"no types", remove("sys/kernel/btf/vmlinux"), []string{"btf note the kernel does not describe its types"}},
		{"interpreter", write("proc/sys/net/core/bpf_jit_enable", "0\n"), []string{"jit warning BPF programs are interpreted"}},
		{"compiler that dumps", write("proc/sys/net/core/bpf_jit_enable", "2\n"), []string{"jit warning compiled BPF programs are dumped"}},
		{"no compiler", remove("proc/sys/net/core/bpf_jit_enable"), []string{"jit unknown net.core.bpf_jit_enable is not shown"}},
		{"bpf for all", write("proc/sys/kernel/unprivileged_bpf_disabled", "0\n"), []string{"unprivileged-bpf note every user may load"}},
		{"setting hidden from root", forbid("proc/sys/kernel/unprivileged_bpf_disabled"), []string{"unprivileged-bpf unknown open proc/sys"}},
		{"integrity", write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n"), []string{`lockdown ok lockdown is "integrity"`}},
		{"confidentiality", write("sys/kernel/security/lockdown", "none integrity [confidentiality]\n"), []string{`lockdown note lockdown is "confidentiality"`}},
		{"no lockdown", remove("sys/kernel/security/lockdown"), []string{"lockdown ok the kernel is not locked down"}},
		{"no securityfs", func(t *testing.T, f *fixture) {
			delete(f.files, "sys/kernel/security/lockdown")
			delete(f.files, "sys/kernel/security/lsm")
			f.replace(t, mountinfo, " - securityfs securityfs ", " - tmpfs tmpfs ")
		}, []string{"lockdown unknown securityfs is not mounted", "lsm unknown securityfs is not mounted"}},
		{"SELinux", write("sys/kernel/security/lsm", "lockdown,selinux\n"), []string{"lsm note security modules lockdown,selinux: SELinux"}},

		{"locked memory that the agent lifts", func(_ *testing.T, f *fixture) { f.features[0].Have = "no" },
			[]string{"memlock ok maps count against RLIMIT_MEMLOCK, 65536 bytes here, which the agent lifts", "feature-memcg note no: without it"}},
		{"locked memory", func(t *testing.T, f *fixture) {
			f.features[0].Have = "no"
			f.replace(t, "proc/self/status", "CapEff:\t000001ffffffffff", "CapEff:\t000001fffeffffff")
		}, []string{"memlock warning maps count against RLIMIT_MEMLOCK, which is 65536 bytes", "feature-memcg note no: without it"}},
		{"locked memory without a limit", func(t *testing.T, f *fixture) {
			f.features[0].Have = "no"
			f.replace(t, "proc/self/limits", "65536                65536", "unlimited            unlimited")
		}, []string{"memlock ok locked memory is not limited", "feature-memcg note no: without it"}},
		{"feature that is not told", func(_ *testing.T, f *fixture) { f.features[1].Have, f.features[1].Err = "unknown", syscall.ENOMEM },
			[]string{"feature-tcx unknown ask the kernel: cannot allocate memory"}},

		{"hybrid cgroups", func(t *testing.T, f *fixture) {
			f.replace(t, mountinfo, "26 23", "27 23 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n26 23")
		}, []string{"cgroup2 ok hybrid, cgroup2 at /sys/fs/cgroup"}},
		{"cgroups that classify", func(t *testing.T, f *fixture) {
			f.replace(t, mountinfo, "26 23", "27 23 0:30 / /sys/fs/cgroup/net_cls rw - cgroup cgroup rw,net_cls\n26 23")
		}, []string{"cgroup2 note hybrid, cgroup2 at /sys/fs/cgroup: on old kernels a socket that /sys/fs/cgroup/net_cls classifies"}},
		{"old cgroups", func(t *testing.T, f *fixture) { f.replace(t, mountinfo, " - cgroup2 cgroup2 ", " - cgroup cgroup ") }, []string{
			"cgroup2 failure no cgroup2 hierarchy is mounted, only 1 of version 1", "cgroup failure there is no cgroup",
			"cgroup-programs unknown there is no cgroup2 hierarchy",
		}},
		{"part of the cgroups", func(t *testing.T, f *fixture) { f.replace(t, mountinfo, "0:23 / /sys", "0:23 /box /sys") }, []string{
			"cgroup2 failure only a part of the cgroup2 hierarchy is mounted, at /sys/fs/cgroup", "cgroup failure there is no cgroup",
			"cgroup-programs unknown there is no cgroup2 hierarchy",
		}},
		{"no mounts", remove(mountinfo), []string{
			"cgroup2 unknown no mounts are shown", "cgroup failure there is no cgroup", "bpffs failure /sys/fs/bpf is not on",
			"cgroup-programs unknown there is no cgroup2 hierarchy",
		}},
		{"no bpffs", func(t *testing.T, f *fixture) { f.replace(t, mountinfo, " - bpf bpf ", " - tmpfs tmpfs ") },
			[]string{"bpffs failure /sys/fs/bpf is not on a bpf file system"}},
		{"bpffs below a later mount", func(t *testing.T, f *fixture) {
			f.write(mountinfo, string(f.files[mountinfo].Data)+"30 26 0:40 / /sys/fs/bpf rw - tmpfs tmpfs rw\n")
		}, []string{"bpffs failure /sys/fs/bpf is not on a bpf file system"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := well(t)
			test.change(t, f)
			expect(t, test.want, changed(well(t).examine(t), f.examine(t)))
		})
	}
}

// expect compares findings by id, state and the start of the cause, in order.
func expect(t *testing.T, want []string, got []Finding) {
	t.Helper()
	for i, f := range got {
		text := f.ID + " " + string(f.State) + " " + f.Cause
		if i >= len(want) || !strings.HasPrefix(text, want[i]) {
			t.Errorf("found %q", text)
		}
		if f.State == StateFailure && f.Remedy == "" || f.State == StateWarning && f.Remedy == "" {
			t.Errorf("no remedy for %q", text)
		}
	}
	if len(got) < len(want) {
		t.Errorf("found %+v, want %q", got, want)
	}
}

func TestOwnStateIsJudged(t *testing.T) {
	const file = "etc/bpfacq/bpfacq.toml"
	for _, test := range []struct {
		name   string
		change func(*testing.T, *fixture)
		want   []string
	}{
		{"no configuration", func(_ *testing.T, f *fixture) { delete(f.files, file) }, []string{
			"configuration note there is no /etc/bpfacq/bpfacq.toml: the defaults hold",
			"profile failure the configuration does not allow the edge",
		}},
		{"no configuration where one was named", func(_ *testing.T, f *fixture) {
			delete(f.files, file)
			delete(f.files, "etc/bpfacq/profile.json")
			f.named = true
		}, []string{"configuration failure open etc/bpfacq/bpfacq.toml", "profile warning there is no /etc/bpfacq/profile.json: without one"}},
		{"mistakes in the configuration", func(_ *testing.T, f *fixture) {
			f.write(file, "a = 1\nb = 2\n")
			delete(f.files, "etc/bpfacq/profile.json")
		}, []string{
			"configuration failure /etc/bpfacq/bpfacq.toml:1:1: a: unknown key", "configuration failure /etc/bpfacq/bpfacq.toml:2:1: b: unknown key",
			"profile warning there is no /etc/bpfacq/profile.json: without one",
		}},
		{"cgroup that is gone", func(_ *testing.T, f *fixture) {
			f.write(file, string(f.files[file].Data)+"[kernel]\ncgroup = \"/sys/fs/cgroup/none\"\n")
		}, []string{"cgroup failure open sys/fs/cgroup/none", "cgroup-programs ok no programs of others on the hooks of bpfacq, from /sys/fs/cgroup/none down"}},
		{"cgroup off the hierarchy", func(_ *testing.T, f *fixture) {
			f.write(file, string(f.files[file].Data)+"[kernel]\ncgroup = \"/proc/self\"\n")
		}, []string{"cgroup failure /proc/self is not of the cgroup2 hierarchy", "cgroup-programs ok"}},
		{"last good profile", func(_ *testing.T, f *fixture) {
			f.write("var/lib/bpfacq/profile.json", "{}")
			delete(f.files, "etc/bpfacq/profile.json")
		}, []string{"profile warning there is no /etc/bpfacq/profile.json: the last good one is used, /var/lib/bpfacq/profile.json"}},
		{"profile without oddities", func(_ *testing.T, f *fixture) {
			f.write("etc/bpfacq/profile.json", `{"policy": {"channels": [], "rules": []}}`)
		}, []string{"profile ok /etc/bpfacq/profile.json is valid: 0 rules, 0 channels", "dns ok no rule acquires names"}},
		{"edge in cleartext", func(t *testing.T, f *fixture) {
			f.replace(t, "etc/bpfacq/profile.json", `"isSecure": true`, `"isSecure": false`)
		}, []string{"profile failure the profile has the edge"}},
		{"profile that is rejected", func(_ *testing.T, f *fixture) { f.write("etc/bpfacq/profile.json", "{") },
			[]string{"profile failure /etc/bpfacq/profile.json: "}},
		{"pins that somebody changed", func(_ *testing.T, f *fixture) { f.hooks, f.hooksErr = nil, errors.New("not a link") },
			[]string{"pins unknown read /sys/fs/bpf/bpfacq: not a link"}},
		{"nothing loaded", func(_ *testing.T, f *fixture) { f.hooks, f.agentErr = nil, noAgent(syscall.ENOENT) },
			[]string{"pins ok nothing is loaded", "agent note no agent runs: nothing is acquired"}},
		{"agent gone, programs there", func(_ *testing.T, f *fixture) { f.agentErr = noAgent(syscall.ECONNREFUSED) },
			[]string{"agent warning no agent runs, and its programs are attached"}},
		{"agent hangs", func(_ *testing.T, f *fixture) { f.agentErr = errors.New("ask the agent: timeout") },
			[]string{"agent failure ask the agent: timeout"}},
		{"lease lapsed", func(_ *testing.T, f *fixture) { f.status.Lease.Fresh = false }, []string{"agent failure the agent answers and its lease has lapsed"}},
		{"no policy", func(_ *testing.T, f *fixture) { f.status.Profile = nil }, []string{"agent warning the agent has no policy"}},
		{"channel down", func(_ *testing.T, f *fixture) {
			f.status.Channels = append(f.status.Channels, control.Channel{Name: "Internet", State: "down", Cause: "refused"})
		}, []string{`agent warning channel "Internet" is down: refused`}},
		{"agent that warns", func(_ *testing.T, f *fixture) { f.status.Warnings = []string{"odd"} }, []string{"agent warning the agent says: odd"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := well(t)
			test.change(t, f)
			expect(t, test.want, changed(well(t).examine(t), f.examine(t)))
		})
	}
}

func TestWithoutRootTheRestIsStillChecked(t *testing.T) {
	f := well(t)
	f.unprivileged(t)
	f.usable, f.hooksErr, f.hooks, f.cgErr = syscall.EPERM, fs.ErrPermission, nil, syscall.EPERM
	f.agentErr = noAgent(syscall.EACCES)
	f.forbidden["proc/sys/net/core/bpf_jit_enable"], f.forbidden["etc/bpfacq/profile.json"] = true, true
	for i := range f.features {
		f.features[i].Have, f.features[i].Err = "unknown", syscall.EPERM
	}
	r := f.examine(t)
	expect(t, []string{
		"capabilities note this process lacks what the agent has: CAP_BPF", "bpf unknown", "jit unknown", "memlock unknown", "profile unknown",
		"pins unknown", "agent unknown", "feature-memcg unknown", "feature-tcx unknown", "cgroup-programs unknown", "nftables unknown", "iptables unknown",
	}, changed(well(t).examine(t), r))
	want := strings.Fields("capabilities bpf jit memlock profile pins agent feature-memcg feature-tcx cgroup-programs nftables iptables")
	if diff := cmp.Diff(want, r.NeedRoot()); diff != "" {
		t.Errorf("checks that need root (-want +got):\n%s", diff)
	}
	if r.State != StateUnknown || r.Count(StateUnknown) != len(want)-1 {
		t.Errorf("report is %s with %d unknown", r.State, r.Count(StateUnknown))
	}
}

func TestTheWorstFindingIsTheState(t *testing.T) {
	if got := worst(nil); got != StateOK {
		t.Errorf("nothing found is %s", got)
	}
	all := states()
	for i, bad := range all {
		for _, good := range all[:i+1] {
			if got := worst([]Finding{{State: good}, {State: bad}, {State: good}}); got != bad {
				t.Errorf("%s among %s is %s", bad, good, got)
			}
		}
	}
}
