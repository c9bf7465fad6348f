package bpffs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/loader/bpffs"
	"github.com/bpfacq/bpfacq/test/testutil"
)

func TestMain(m *testing.M) { os.Exit(testutil.Main(m, nil)) }

func TestPrivateFileSystemGoesWithItsFile(t *testing.T) {
	testutil.Privileged(t)
	root, err := bpffs.Private()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()

	var stat unix.Statfs_t
	if err := unix.Statfs(root.Name(), &stat); err != nil || stat.Type != unix.BPF_FS_MAGIC {
		t.Errorf("%s is of type %#x, %v", root.Name(), stat.Type, err)
	}
	folder := filepath.Join(root.Name(), "pins")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Error(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), root.Name()) {
		t.Errorf("the mount table shows it, or is not readable: %v", err)
	}

	if err := root.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("folder after Close: %v, want none", err)
	}
}

func TestPrivateFileSystemsAreApart(t *testing.T) {
	testutil.Privileged(t)
	var folders [2]string
	for i := range folders {
		root, err := bpffs.Private()
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		folders[i] = filepath.Join(root.Name(), "pins")
	}
	if err := os.Mkdir(folders[0], 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(folders[1]); !os.IsNotExist(err) {
		t.Errorf("the second one holds the folder, too: %v", err)
	}
}
