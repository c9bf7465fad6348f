package testutil

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/bpfacq/bpfacq/loader/bpffs"
)

// BPFFS returns an empty folder of a BPF filesystem that is the test's own, as
// [bpffs.Private] makes it. The folder is not the filesystem's root, which holds
// maps.debug and progs.debug.
func BPFFS(t testing.TB) string {
	t.Helper()
	Privileged(t)
	root, err := bpffs.Private()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })

	path := filepath.Join(root.Name(), "test")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}
