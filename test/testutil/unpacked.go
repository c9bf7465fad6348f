package testutil

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Unpacked returns a command of what test/interop/setup.sh unpacked, run with its
// own libraries. Where it is missing the test is skipped, unless CI=true: then it
// fails. Only tests two folders below the top find it.
func Unpacked(t testing.TB, program string, args ...string) *exec.Cmd {
	t.Helper()
	root, err := filepath.Abs("../../.build/interop")
	if err != nil {
		t.Fatal(err)
	}
	loaders, err := filepath.Glob(filepath.Join(root, "usr/lib/*/ld-linux-*.so.*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(loaders) == 0 {
		refuse(t, inCI(), "needs .build/interop: make test unpacks it")
	}
	args = append([]string{"--library-path", filepath.Dir(loaders[0]), filepath.Join(root, "usr/bin", program)}, args...)
	cmd := Command(t, loaders[0], args...)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "PYTHONHOME="+root+"/usr",
		"PYTHONPATH="+root+"/usr/lib/python3/dist-packages")
	return cmd
}
