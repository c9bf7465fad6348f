package doctor

import (
	"cmp"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// cgroup2Root is where the cgroup2 hierarchy is mounted whole.
func (x *examination) cgroup2Root() string {
	for _, m := range x.mounts {
		if m.kind == "cgroup2" && m.root == "/" {
			return m.point
		}
	}
	return ""
}

// target is the cgroup that the agent attaches to, empty if there is none.
func (x *examination) target() string { return cmp.Or(x.config.Kernel.Cgroup, x.cgroup2Root()) }

// checkCgroup2 says how cgroups are laid out.
func checkCgroup2(x *examination) Finding {
	root := x.cgroup2Root()
	var part string
	var old, classes []string
	for _, m := range x.mounts {
		switch options := strings.Split(m.super, ","); {
		case m.kind == "cgroup2":
			part = m.point
		case m.kind == "cgroup":
			old = append(old, m.point)
			if slices.Contains(options, "net_cls") || slices.Contains(options, "net_prio") {
				classes = append(classes, m.point)
			}
		}
	}
	switch {
	case len(x.mounts) == 0:
		return Finding{State: StateUnknown, Cause: "no mounts are shown", Remedy: "mount proc"}
	case root == "" && part != "":
		return failed("run on the host itself, or name a cgroup with kernel.cgroup",
			"only a part of the cgroup2 hierarchy is mounted, at %s: this is a container", part)
	case root == "":
		return failed("mount one (mount -t cgroup2 none /sys/fs/cgroup), or boot with systemd.unified_cgroup_hierarchy=1",
			"no cgroup2 hierarchy is mounted, only %d of version 1", len(old))
	case len(classes) > 0:
		return noted("boot with systemd.unified_cgroup_hierarchy=1 if flows go by unseen",
			"hybrid, cgroup2 at %s: on old kernels a socket that %s classifies leaves cgroup2, and is not acquired",
			root, strings.Join(classes, " or "))
	case len(old) > 0:
		return fine("hybrid, cgroup2 at %s", root)
	}
	return fine("unified, at %s", root)
}

// checkCgroup says whether the configured cgroup is there.
func checkCgroup(x *examination) Finding {
	target := x.target()
	if target == "" {
		return failed("see cgroup2", "there is no cgroup to attach to")
	}
	if m, ok := mountOf(x.mounts, target); ok && m.kind != "cgroup2" {
		return failed("leave kernel.cgroup empty to have its root found", "%s is not of the cgroup2 hierarchy", target)
	}
	if _, err := fs.Stat(x.Root, rooted(target)); err != nil {
		return failed("name an existing folder of the cgroup2 hierarchy with kernel.cgroup", "%v", err)
	}
	if x.config.Kernel.Cgroup == "" {
		return fine("all flows of the host are looked at, from %s", target)
	}
	return fine("flows from %s are looked at", target)
}

func checkBPFFS(x *examination) Finding {
	folder := path.Dir(x.config.Kernel.Pins)
	m, ok := mountOf(x.mounts, folder)
	if !ok || m.kind != "bpf" {
		return failed("mount one (mount -t bpf bpf /sys/fs/bpf), or name a folder directly below one with kernel.pins",
			"%s is not on a bpf file system: nothing can be pinned", folder)
	}
	return fine("a bpf file system is mounted at %s", m.point)
}
