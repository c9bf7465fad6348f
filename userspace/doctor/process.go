package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is what this process may do.
type process struct {
	effective uint64 // capabilities
	bounding  uint64
	memlock   string // the soft limit in bytes, "unlimited", or "" if it is not known
	known     bool
}

func readProcess(root fs.FS) process {
	var p process
	status, err := text(root, "proc/self/status")
	if err != nil {
		return p
	}
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		switch {
		case err != nil:
		case name == "CapEff":
			p.effective, p.known = set, true
		case name == "CapBnd":
			p.bounding = set
		}
	}
	limits, err := text(root, "proc/self/limits")
	if err != nil {
		return p
	}
	for line := range strings.Lines(limits) {
		if rest, ok := strings.CutPrefix(line, "Max locked memory"); ok {
			p.memlock, _, _ = strings.Cut(strings.TrimSpace(rest), " ")
		}
	}
	return p
}

// capability is a privilege that the agent needs.
type capability struct {
	bit    int
	name   string
	reason string
}

// needed are the capabilities without which the loader cannot do its work.
func needed() []capability {
	return []capability{
		{unix.CAP_BPF, "CAP_BPF", "load programs"},
		{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "attach them"},
		{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "look at what is attached"},
	}
}

// may reports whether the process has every capability that is needed.
func (p process) may() bool { return len(p.lacks(p.effective)) == 0 }

// lacks lists what is missing in a set. CAP_SYS_ADMIN includes the others wherever
// the kernel asks for them.
func (p process) lacks(set uint64) []string {
	if set&(1<<unix.CAP_SYS_ADMIN) != 0 {
		return nil
	}
	var names []string
	for _, c := range needed() {
		if set&(1<<c.bit) == 0 {
			names = append(names, fmt.Sprintf("%s (to %s)", c.name, c.reason))
		}
	}
	return names
}

// unknown is the finding of a check that an error ended. What was forbidden to a
// process without privilege is root's to know.
func (x *examination) unknown(remedy string, err error) Finding {
	if errors.Is(err, fs.ErrPermission) && !x.process.may() {
		return needsRoot(err.Error())
	}
	return Finding{State: StateUnknown, Cause: err.Error(), Remedy: remedy}
}

func checkCapabilities(x *examination) Finding {
	p := x.process
	bounded, lacking := p.lacks(p.bounding), p.lacks(p.effective)
	switch {
	case !p.known:
		return Finding{State: StateUnknown, Cause: "/proc/self/status shows no capabilities", Remedy: "mount proc"}
	case len(bounded) > 0:
		return failed("run on the host itself, or grant these to the container",
			"not even root has here what the agent needs: %s", strings.Join(bounded, ", "))
	case len(lacking) > 0:
		f := noted("sudo bpfacq doctor", "this process lacks what the agent has: %s", strings.Join(lacking, ", "))
		f.NeedsRoot = true
		return f
	}
	return fine("this process has what the agent needs")
}

// checkMemlock matters before 5.11, where maps count as locked memory.
func checkMemlock(x *examination) Finding {
	const lifted = 1 << unix.CAP_SYS_RESOURCE
	limit := x.process.memlock
	switch {
	case x.has("memcg") == answerYes:
		return fine("maps count against the memory limit of the agent's cgroup")
	case limit == "unlimited":
		return fine("locked memory is not limited")
	case limit == "":
		return Finding{State: StateUnknown, Cause: "/proc/self/limits shows no limit of locked memory", Remedy: "mount proc"}
	case x.has("memcg") != answerNo:
		return needsRoot("whether maps count against RLIMIT_MEMLOCK is not known")
	case x.process.effective&lifted != 0:
		return fine("maps count against RLIMIT_MEMLOCK, %s bytes here, which the agent lifts", limit)
	}
	return warned("give the agent CAP_SYS_RESOURCE, or LimitMEMLOCK=infinity in its unit",
		"maps count against RLIMIT_MEMLOCK, which is %s bytes: a policy may not fit", limit)
}
