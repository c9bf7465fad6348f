package loader

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Cgroup2Root finds the root of the cgroup2 hierarchy by reading the mounts: in
// hybrid layouts it is not /sys/fs/cgroup. The error is ErrNoCgroup2 if there is
// none.
func Cgroup2Root() (string, error) {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("read mounts: %w", err)
	}
	defer mounts.Close()
	return cgroup2Root(mounts)
}

// cgroup2Root reads mountinfo as proc(5) describes it: the fourth field is the
// root of the mount within its file system, the fifth the mount point, and the
// file system type follows a lone hyphen.
func cgroup2Root(mountinfo io.Reader) (string, error) {
	partial := ""
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if !ok || len(fields) < 5 || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		point := unescape(fields[4])
		if fields[3] == "/" {
			return point, nil
		}
		partial = point
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("read mounts: %w", err)
	}
	if partial != "" {
		return "", withRemedy(fmt.Errorf("only a part of the hierarchy is mounted, at %q: %w", partial, ErrNoCgroup2),
			"run outside the container, or name a cgroup with kernel.cgroup")
	}
	return "", withRemedy(ErrNoCgroup2,
		"mount one (mount -t cgroup2 none /sys/fs/cgroup), or boot with systemd.unified_cgroup_hierarchy=1")
}

// unescape undoes mountinfo's octal escapes of blanks and backslashes.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// OwnCgroup finds the cgroup2 folder of this process.
func OwnCgroup() (string, error) {
	root, err := Cgroup2Root()
	if err != nil {
		return "", err
	}
	memberships, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("read own cgroup: %w", err)
	}
	for line := range strings.Lines(string(memberships)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join(root, path), nil
		}
	}
	return "", fmt.Errorf("find own cgroup: %w", ErrNoCgroup2)
}

// below reports whether one folder of a hierarchy is another or lies below it.
func below(path, ancestor string) bool {
	relative, err := filepath.Rel(ancestor, path)
	return err == nil && relative != ".." && !strings.HasPrefix(relative, "../")
}

// cgroupID is the number by which the kernel knows the cgroup of a folder: its
// inode number. A folder that is not of cgroup2 is refused.
func cgroupID(path string) (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, withRemedy(fmt.Errorf("open cgroup %q: %w", path, err),
			"name an existing folder of the cgroup2 hierarchy with kernel.cgroup")
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return 0, withRemedy(fmt.Errorf("open cgroup %q: %w", path, ErrNoCgroup2),
			"programs attach to cgroup2 only; leave kernel.cgroup empty to have its root found")
	}
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, fmt.Errorf("read id of cgroup %q: %w", path, err)
	}
	return stat.Ino, nil
}
