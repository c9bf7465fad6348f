package demo

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/netns"
)

// station is where a command line is typed.
type station struct {
	name     string // shown as the prompt
	ns       *netns.Namespace
	cgroup   string // a folder; empty for that of the demo itself
	resolver string // the file that is its /etc/resolv.conf
}

// resolverFile is where programs look for their resolver.
const resolverFile = "/etc/resolv.conf"

// settle gives a command the station's way to look up names, in a mount namespace
// of its own: that of the machine would lead out of the demo. A cache that listens
// in /run is the machine's, too.
const settle = `
mount -o bind "$1" "$2" || exit
[ ! -e /etc/nsswitch.conf ] || mount -o bind "$3" /etc/nsswitch.conf || exit
[ ! -d /run/nscd ] || mount -t tmpfs none /run/nscd || exit
shift 3
exec "$@"`

// spawn starts a command at the station, in the demo's folder. It dies with the
// demo. The caller waits for it.
func (s *scene) spawn(at station, cmd *exec.Cmd) error {
	cmd.Dir = s.folder
	// Nothing of the user's own curl or shell settings.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.folder, "LC_ALL=C"}
	if cmd.Args[0] == "bpfacq" {
		cmd.Args[0] = s.self
	}
	cmd.Args = append([]string{"sh", "-c", settle, "sh", at.resolver, resolverFile, s.path(switchFile)}, cmd.Args...)
	cmd.Path, cmd.Err = "/bin/sh", nil
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:      true, // ^C on the terminal is for the demo alone
		Pdeathsig:    syscall.SIGKILL,
		Unshareflags: unix.CLONE_NEWNS,
	}
	if at.cgroup != "" {
		cgroup, err := os.Open(at.cgroup)
		if err != nil {
			return fmt.Errorf("open cgroup: %w", err)
		}
		defer cgroup.Close()
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(cgroup.Fd())
	}
	return at.ns.Start(cmd)
}
