package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// question prints the asking process's cgroup and the answers of both ports.
var question = fmt.Sprintf("cat /proc/self/cgroup; for port in %d %d; do curl -sS --max-time 20 http://%s:$port/; done",
	tunnelPort, bypassPort, target)

// wantAcquired checks the answers to a question from a cgroup.
func wantAcquired(t *testing.T, answers, cgroup string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(answers), "\n")
	if len(lines) != 3 || !strings.Contains(lines[0], cgroup) || lines[1] != viaEdge || lines[2] != direct {
		t.Errorf("got %q, want answers %q and %q to a process of %q", lines, viaEdge, direct, cgroup)
	}
}

func plainScope(t *testing.T) {
	wantAcquired(t, command(t, "systemd-run", "--quiet", "--scope", "--unit=plain", "sh", "-c", question), "/system.slice/plain.scope")
}

// userSession asks from a login session, as a terminal or SSH opens one.
func userSession(t *testing.T) {
	wantAcquired(t, command(t, "su", "--login", "alice", "--command", question), "/user.slice/user-1000.slice/session-")
}

// userManager asks from a unit of the user's own, as desktops start programs.
func userManager(t *testing.T) {
	wantAcquired(t, command(t, "systemd-run", "--quiet", "--user", "--machine=alice@.host", "--wait", "--pipe", "--collect",
		"--unit=own", "sh", "-c", question), "/user.slice/user-1000.slice/user@1000.service/app.slice/own.service")
}

// container asks from where a container runs that shares the host's network: a
// nested cgroup, and other namespaces for all the rest.
func container(t *testing.T) {
	box := "/sys/fs/cgroup/machine.slice/box.scope/payload"
	if err := os.MkdirAll(box, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for path := box; path != "/sys/fs/cgroup"; path = filepath.Dir(path) {
			if err := os.Remove(path); err != nil {
				t.Error(err)
			}
		}
	})
	cmd := testutil.Command(t, "sh", "-c", question)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP,
		Pdeathsig:  syscall.SIGKILL,
	}
	answers, err := testutil.Output(t, nil, box, cmd)
	if err != nil {
		t.Fatalf("%v\n%s", err, answers)
	}
	wantAcquired(t, answers, "0::/") // the root of its own cgroup namespace
}
