package container

import (
	"strings"
	"testing"
)

const (
	id      = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	otherID = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
)

func TestCgroupsTellWhatRunsAProcess(t *testing.T) {
	for _, test := range []struct{ cgroups, kind, id string }{
		{"0::/system.slice/docker-" + id + ".scope", "docker", id},
		{"0::/docker/" + id, "docker", id},
		{"12:pids:/x\n1:name=systemd:/docker/" + id + "\n0::/", "docker", id},
		{"0::/system.slice/docker-" + id + ".scope/system.slice/nginx.service", "docker", id},
		{"0::/docker/" + id + "/docker/" + otherID, "docker", otherID},
		{"0::/machine.slice/libpod-" + id + ".scope/container", "podman", id},
		{"0::/libpod_parent/libpod-" + id, "podman", id},
		{"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id + ".scope", "podman", id},
		{"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab.slice/cri-containerd-" + id + ".scope", "kubernetes", id},
		{"0::/kubepods/burstable/pod4711/" + id, "kubernetes", id},
		{`0::/machine.slice/machine-qemu\x2d1\x2dwin\x2d11.scope/libvirt/emulator`, "libvirt", "win-11"},
		{`0::/machine.slice/machine-debian.scope/payload`, "machine", "debian"},
		{`0::/machine.slice/systemd-nspawn@my\x2dbox.service/payload`, "machine", "my-box"},
		{"0::/lxc.payload.web/system.slice/cron.service", "lxc", "web"},
		{"4:memory:/x\n1:name=systemd:/lxc/web", "lxc", "web"},
		{"0::/system.slice/vpn.service", "service", "vpn.service"},

		{"0::/", "", ""},
		{"", "", ""},
		{"0::/user.slice/user-0.slice/session-1.scope", "", ""},
		{"0::/system.slice/docker-abc.scope", "", ""},
		{"0::/docker/buildx", "", ""},
		{"0::/machine.slice/libpod-conmon-" + id + ".scope", "", ""},
		{"no cgroup", "", ""},
	} {
		if kind, id := classify(test.cgroups); kind != test.kind || id != test.id {
			t.Errorf("%q is %q %q, want %q %q", test.cgroups, kind, id, test.kind, test.id)
		}
	}
}

func TestUnitNamesAreUnescaped(t *testing.T) {
	for escaped, want := range map[string]string{
		"plain": "plain", `a\x2db`: "a-b", `\x2d\x2d`: "--", `\xzz`: `\xzz`, `a\x`: `a\x`, `a\x2`: `a\x2`,
	} {
		if got := unescape(escaped); got != want {
			t.Errorf("%q is %q, want %q", escaped, got, want)
		}
	}
}

func TestNamesAreOfPrintableCharacters(t *testing.T) {
	if got := printable("we\x1b[31mb \u202eü1"); got != "we[31mb1" {
		t.Errorf("name is %q", got)
	}
}

func FuzzClassify(f *testing.F) {
	f.Add("0::/docker/" + id)
	f.Add(`0::/machine.slice/machine-qemu\x2d1\x2da.scope`)
	f.Add("1:name=systemd:/lxc/\n0::/a.service/b")
	f.Fuzz(func(t *testing.T, cgroups string) {
		kind, id := classify(cgroups)
		if (kind == "") != (id == "") && kind != "lxc" && kind != "libvirt" && kind != "machine" {
			t.Errorf("%q is %q %q", cgroups, kind, id)
		}
		if len(kind)+len(id) > len(cgroups)+len("kubernetes") || strings.Contains(id, "\n") {
			t.Errorf("%q is %q %q", cgroups, kind, id)
		}
	})
}
