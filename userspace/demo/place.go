package demo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/loader"
)

// namePrefix starts the names of the demo's cgroup and folder. The process id
// follows, by which what a killed demo left is known.
const namePrefix = "bpfacq-demo-"

// makePlace makes a folder of the demo's own in parent, and removes what killed
// demos have left there.
func makePlace(parent string, remove func(path string) error) (string, error) {
	stale, err := stalePlaces(parent)
	if err != nil {
		return "", err
	}
	for _, path := range stale {
		if err := remove(path); err != nil {
			return "", fmt.Errorf("remove what an earlier demo left: %w", err)
		}
	}
	return os.MkdirTemp(parent, fmt.Sprintf("%s%d-", namePrefix, os.Getpid()))
}

// stalePlaces lists the folders in parent that carry the id of a process that is
// gone. Those of other users are left alone: everybody can write to /tmp.
func stalePlaces(parent string) ([]string, error) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil, err
	}
	var stale []string
	for _, entry := range entries {
		if !entry.IsDir() || !isStale(entry.Name()) {
			continue
		}
		var stat unix.Stat_t
		path := filepath.Join(parent, entry.Name())
		if err := unix.Lstat(path, &stat); err == nil && int(stat.Uid) == os.Geteuid() {
			stale = append(stale, path)
		}
	}
	return stale, nil
}

func isStale(name string) bool {
	rest, ok := strings.CutPrefix(name, namePrefix)
	if !ok {
		return false
	}
	text, _, ok := strings.Cut(rest, "-")
	pid, err := strconv.Atoi(text)
	return ok && err == nil && pid > 0 && errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}

// makeCgroup makes an empty cgroup below the root of the hierarchy.
func makeCgroup() (string, error) {
	root, err := loader.Cgroup2Root()
	if err != nil {
		return "", err
	}
	path, err := makePlace(root, removeCgroup)
	if err != nil {
		return "", fmt.Errorf("make cgroup: %w", err)
	}
	return path, nil
}

// removeCgroup removes a cgroup, whose processes have been waited for. The
// kernel may need a moment more than they.
func removeCgroup(path string) error {
	const poll, tries = 5 * time.Millisecond, 2000
	retry := time.NewTicker(poll)
	defer retry.Stop()
	for range tries {
		err := unix.Rmdir(path)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("remove cgroup %s: %w", path, err)
		}
		<-retry.C
	}
	return fmt.Errorf("remove cgroup %s: %w", path, unix.EBUSY)
}

// makeFolder makes a temporary folder.
func makeFolder() (string, error) {
	path, err := makePlace(os.TempDir(), os.RemoveAll)
	if err != nil {
		return "", fmt.Errorf("make folder: %w", err)
	}
	return path, nil
}
