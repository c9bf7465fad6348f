package host

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const stateFile = kept + "/state.json"

// state is what of a host a package may leave behind.
type state struct {
	Files    map[string]string // path: mode, owner, digest
	Programs map[string][]uint32
	Queues   string // of the devices: the datapath may be in one
	Units    string
	Accounts string
	Resolver string // what resolved asks whom
}

// remember prepares the host, and keeps its state without bpfacq for the later
// boots.
func remember(t *testing.T) {
	prepareHost(t)
	keep := func(path string, value any) {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, string(text))
	}
	keep(stateFile, hostState(t))
	keep(networkFile, networkState(t))
}

func hostState(t *testing.T) state {
	t.Helper()
	return state{
		Files:    files(t),
		Programs: programs(t),
		Queues:   shell(t, "tc qdisc show"),
		Units:    shell(t, "systemctl list-unit-files --no-legend --no-pager 'bpfacq*' || true"), // 1 is none
		Accounts: shell(t, "getent passwd; getent group"),
		Resolver: resolverState(t),
	}
}

// resolverState is all that resolved tells of its configuration, but for the agent's
// pairs. Which server it has asked last stands in a line of its own, and moves the
// others.
func resolverState(t *testing.T) string {
	t.Helper()
	return shell(t, "resolvectl status --no-pager | sed 's/^ *//; /^Link [0-9]* (acq/,/^$/d; /^$/d; /^Current DNS Server/d'; stat --format='%N %y' /etc/resolv.conf")
}

// own are the places that are not of the host's lasting state, or that change
// by themselves, or that hold the test.
func own() []string {
	return []string{
		"/dev", "/proc", "/run", "/sys", "/tmp", "/var/tmp", "/src", work, kept, "/var/lib/vmtest-boot", "/var/lib/vmtest-begun",
		"/var/lib/dpkg", "/var/lib/apt", "/var/cache/apt", "/var/cache/debconf", "/var/cache/ldconfig", "/var/log",
		"/var/lib/systemd", "/etc/machine-id", "/usr/lib/modules", "/home/alice",
		// Shadow's own copies of what was there before its last change.
		"/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-",
	}
}

// files lists all others.
func files(t *testing.T) map[string]string {
	t.Helper()
	found := make(map[string]string)
	skip := own()
	err := filepath.WalkDir("/", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if slices.Contains(skip, path) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		found[path], err = describe(path, entry)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func describe(path string, entry fs.DirEntry) (string, error) {
	status, err := entry.Info()
	if err != nil {
		return "", err
	}
	owner := status.Sys().(*syscall.Stat_t)
	text := fmt.Sprintf("%v %d:%d", status.Mode(), owner.Uid, owner.Gid)
	switch {
	case status.Mode().IsRegular() && strings.HasPrefix(path, "/usr/"):
		// Too much to be read by an emulated processor; whatever changes a
		// file changes this time.
		return fmt.Sprintf("%s %d bytes, changed %d.%d", text, status.Size(), owner.Ctim.Sec, owner.Ctim.Nsec), nil
	case status.Mode().IsRegular():
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		sum := sha256.New()
		if _, err := io.Copy(sum, f); err != nil {
			return "", err
		}
		return fmt.Sprintf("%s %x", text, sum.Sum(nil)[:8]), nil
	case status.Mode()&fs.ModeSymlink != 0:
		link, err := os.Readlink(path)
		return text + " " + link, err
	}
	return text, nil
}

// programs lists those that are attached at the places that the datapath uses: the
// root cgroup, and the uplinks.
func programs(t *testing.T) map[string][]uint32 {
	t.Helper()
	root, err := os.Open("/sys/fs/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	found := make(map[string][]uint32)
	for name, kind := range map[string]uint32{
		"sockops": 3, "connect4": 10, "connect6": 11, "sendmsg4": 14, "sendmsg6": 15, "recvmsg4": 19, "recvmsg6": 20,
		"getsockopt": 21, "getpeername4": 29, "getpeername6": 30,
	} {
		ids, err := attached(uint32(root.Fd()), kind)
		if err != nil {
			t.Fatalf("query programs at %s: %v", name, err)
		}
		if len(ids) > 0 {
			found[name] = ids
		}
	}
	for _, name := range []string{"uplink", "direct"} {
		device, err := net.InterfaceByName(name)
		if err != nil {
			t.Fatal(err)
		}
		for hook, kind := range map[string]uint32{"ingress": 46, "egress": 47} {
			ids, err := attached(uint32(device.Index), kind)
			if err != nil && !errors.Is(err, unix.EINVAL) { // before tcx there were filters alone, in a queue
				t.Fatalf("query programs at %s of %s: %v", hook, name, err)
			}
			if len(ids) > 0 {
				found[name+" "+hook] = ids
			}
		}
	}
	return found
}

// attached lists the programs at a cgroup or device.
func attached(target, kind uint32) ([]uint32, error) {
	var ids [64]uint32
	query := struct { // of union bpf_attr
		target, kind, flags, attached uint32
		ids                           uint64
		count, _                      uint32
		_                             [4]uint64
	}{target: target, kind: kind, ids: uint64(uintptr(unsafe.Pointer(&ids))), count: uint32(len(ids))}
	if _, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&query)), unsafe.Sizeof(query)); errno != 0 {
		return nil, errno
	}
	return slices.Clone(ids[:query.count]), nil
}

// difference lists what is not as it was, a line each.
func difference(before, now map[string]string) (lines []string) {
	for _, path := range slices.Sorted(maps.Keys(before)) {
		if after, there := now[path]; !there {
			lines = append(lines, "- "+path+" "+before[path])
		} else if after != before[path] {
			lines = append(lines, "~ "+path+" "+before[path]+" → "+after)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(now)) {
		if _, there := before[path]; !there {
			lines = append(lines, "+ "+path+" "+now[path])
		}
	}
	return lines
}

func recalled(t *testing.T) (before state) {
	t.Helper()
	text, err := os.ReadFile(stateFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &before); err != nil {
		t.Fatal(err)
	}
	return before
}

// wantNothingInKernel checks that the datapath is gone.
func wantNothingInKernel(t *testing.T, before state) {
	t.Helper()
	if now := programs(t); !maps.EqualFunc(now, before.Programs, slices.Equal) {
		t.Errorf("programs were %v, are %v", before.Programs, now)
	}
	if now := shell(t, "tc qdisc show"); now != before.Queues {
		t.Errorf("queues were\n%s\nare\n%s", before.Queues, now)
	}
	if left := pairs(t); left != nil {
		t.Errorf("devices are left: %q", left)
	}
	if left, _ := filepath.Glob("/sys/fs/bpf/bpfacq*"); left != nil {
		t.Errorf("pins are left: %q", left)
	}
	if _, err := os.Stat("/run/bpfacq"); err == nil {
		t.Error("/run/bpfacq is left")
	}
	wantWay(t, tunnelPort, direct)
}

// removedAndBack checks that removal takes all but configuration and state, and
// that the same package goes on with them.
func removedAndBack(t *testing.T) {
	before := recalled(t)
	shell(t, "apt-get -qq remove bpfacq")
	wantNothingInKernel(t, before)
	for _, line := range difference(before.Files, files(t)) {
		path := strings.Fields(line)[1]
		ours := strings.HasPrefix(path, "/etc/bpfacq") || strings.HasPrefix(path, "/var/lib/bpfacq")
		if accounts := "/etc/passwd /etc/group /etc/shadow /etc/gshadow"; !ours && !strings.Contains(accounts, path) {
			t.Errorf("removal leaves %s", line)
		}
	}
	shell(t, "apt-get -qq install ./bpfacq_*_amd64.deb")
	shell(t, "systemctl start bpfacq bpfacq-edge")
	channelUp(t)
	tunnelAndBypass(t)
	acquiredNames(t) // by the addresses that they had
}

// purged checks that the host is as before the package came, though the agent was
// killed and has left its datapath.
func purged(t *testing.T) {
	before := recalled(t)
	if status, err := os.Stat("/var/lib/bpfacq/synthetic.log"); err != nil || status.Mode() != 0o600 {
		t.Errorf("the log of synthetic addresses is %v, %v", status, err)
	}
	killForGood(t)
	shell(t, "apt-get -qq purge bpfacq; systemctl daemon-reload")
	wantNothingInKernel(t, before)
	now := hostState(t)
	for _, line := range difference(before.Files, now.Files) {
		t.Errorf("purge leaves %s", line)
	}
	if now.Units != before.Units {
		t.Errorf("units were %q, are %q", before.Units, now.Units)
	}
	if now.Resolver != before.Resolver {
		t.Errorf("the resolver was\n%s\nis\n%s", before.Resolver, now.Resolver)
	}
	if now.Accounts != before.Accounts {
		t.Errorf("accounts were\n%s\nare\n%s", before.Accounts, now.Accounts)
	}
}

func TestDifferenceNamesWhatIsNotAsBefore(t *testing.T) {
	before := map[string]string{"/a": "1", "/b": "1", "/c": "1"}
	now := map[string]string{"/a": "1", "/b": "2", "/d": "1"}
	if diff := cmp.Diff([]string{"~ /b 1 → 2", "- /c 1", "+ /d 1"}, difference(before, now)); diff != "" {
		t.Error(diff)
	}
	if lines := difference(before, before); len(lines) > 0 {
		t.Errorf("got %q of equal states", lines)
	}
}
