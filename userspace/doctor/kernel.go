package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// The floor of all that is supported.
const (
	floorMajor = 5
	floorMinor = 10
)

// The answers of [Feature].
const (
	answerYes = "yes"
	answerNo  = "no"
)

// has is a feature's answer.
func (x *examination) has(id string) string {
	for _, f := range x.features {
		if f.ID == id {
			return f.Have
		}
	}
	return ""
}

func checkKernel(x *examination) Finding {
	var major, minor int
	if _, err := fmt.Sscanf(x.release, "%d.%d", &major, &minor); err != nil {
		return Finding{State: StateUnknown, Cause: fmt.Sprintf("kernel release is %q", x.release), Remedy: "mount proc"}
	}
	if major < floorMajor || major == floorMajor && minor < floorMinor {
		return failed("install a newer kernel", "Linux %s is older than %d.%d", x.release, floorMajor, floorMinor)
	}
	return fine("Linux %s", x.release)
}

func checkBPF(x *examination) Finding {
	err := x.Kernel.Usable()
	switch {
	case err == nil:
		return fine("programs load and maps are made")
	case errors.Is(err, fs.ErrPermission) && !x.process.may():
		return needsRoot(err.Error())
	case errors.Is(err, fs.ErrPermission):
		return failed("run on the host itself, or let bpf(2) through: a container's seccomp filter, SystemCallFilter= of a unit, "+
			"or a security module stops it", "the kernel refuses bpf(2) to a process with all privileges: %v", err)
	}
	return failed(cmp.Or(remedyOf(err), "boot a kernel with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF"), "%v", err)
}

func checkBTF(x *examination) Finding {
	if _, err := fs.Stat(x.Root, "sys/kernel/btf/vmlinux"); err != nil {
		return noted("",
			"the kernel does not describe its types (%v): nothing of bpfacq needs that today", err)
	}
	return fine("the kernel describes its types")
}

func checkJIT(x *examination) Finding {
	const path, remedy = "proc/sys/net/core/bpf_jit_enable", "sysctl net.core.bpf_jit_enable=1"
	value, err := text(x.Root, path)
	switch value = strings.TrimSpace(value); {
	case errors.Is(err, fs.ErrNotExist):
		return Finding{State: StateUnknown, Cause: "net.core.bpf_jit_enable is not shown: the kernel has no compiler for BPF, or this is a container",
			Remedy: "look on the host itself"}
	case err != nil:
		return x.unknown("", err)
	case value == "0":
		return warned(remedy, "BPF programs are interpreted: each connect() takes several times as long")
	case value == "2":
		return warned(remedy, "compiled BPF programs are dumped to the kernel's log: that is for debugging")
	}
	return fine("BPF programs are compiled")
}

func checkUnprivileged(x *examination) Finding {
	value, err := text(x.Root, "proc/sys/kernel/unprivileged_bpf_disabled")
	switch {
	case err != nil:
		return x.unknown("mount proc", err)
	case strings.TrimSpace(value) == "0":
		return noted("sysctl kernel.unprivileged_bpf_disabled=2",
			"every user may load some BPF programs: bpfacq does not need that, and side channels do")
	}
	return fine("only the privileged may use BPF")
}

func checkLockdown(x *examination) Finding {
	content, err := text(x.Root, "sys/kernel/security/lockdown")
	if err != nil {
		return x.securityfs(err, "the kernel is not locked down")
	}
	_, rest, _ := strings.Cut(content, "[")
	level, _, _ := strings.Cut(rest, "]")
	if level == "confidentiality" {
		return noted("", "lockdown is %q: programs may not read kernel memory, and bpfacq's do not", level)
	}
	return fine("lockdown is %q, which does not concern bpfacq", level)
}

func checkLSM(x *examination) Finding {
	list, err := text(x.Root, "sys/kernel/security/lsm")
	if err != nil {
		return x.securityfs(err, "the kernel has no security modules")
	}
	list = strings.TrimSpace(list)
	if slices.Contains(strings.Split(list, ","), "selinux") {
		return noted("if the agent is refused: ausearch -m avc -c bpfacq",
			"security modules %s: SELinux needs a policy that lets the agent use bpf", list)
	}
	return fine("security modules %s", list)
}

// securityfs judges a file of securityfs that is not there. Where the file system
// is mounted, that means something.
func (x *examination) securityfs(err error, absent string) Finding {
	m, ok := mountOf(x.mounts, "/sys/kernel/security/lsm")
	switch {
	case !errors.Is(err, fs.ErrNotExist):
		return x.unknown("", err)
	case ok && m.kind == "securityfs":
		return fine("%s", absent)
	}
	return Finding{State: StateUnknown, Cause: "securityfs is not mounted", Remedy: "mount -t securityfs none /sys/kernel/security"}
}

// checkFeatures shows the ladder.
func checkFeatures(x *examination) []Finding {
	var all []Finding
	for _, f := range x.features {
		var finding Finding
		switch {
		case f.Have == answerYes:
			finding = fine("yes: %s", f.Gives)
		case f.Have == answerNo:
			finding = noted("", "no: %s", f.Otherwise)
		case f.Err != nil:
			finding = x.unknown("", fmt.Errorf("ask the kernel: %w", f.Err))
		default:
			finding = Finding{State: StateUnknown, Cause: "the kernel did not say"}
		}
		finding.ID = "feature-" + f.ID
		all = append(all, finding)
	}
	return all
}
