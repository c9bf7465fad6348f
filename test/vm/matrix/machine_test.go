package matrix

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bpfacq/bpfacq/test/vm/kernel"
	"github.com/bpfacq/bpfacq/test/vm/lines"
	"github.com/bpfacq/bpfacq/test/vm/qemu"
)

// pretend puts a shell script in the place of QEMU. It appends to the file
// called, and may read it.
func pretend(t *testing.T, script string) (called string) {
	t.Helper()
	folder := t.TempDir()
	called = filepath.Join(folder, "called")
	text := "#!/bin/sh\necho >>" + called + "\n" + script
	if err := os.WriteFile(filepath.Join(folder, "qemu-system-x86_64"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", folder+":/usr/bin:/bin")
	return called
}

func TestMachineIsRunAgainOnlyIfItFailedAsSuch(t *testing.T) {
	const (
		pass    = `printf 'VMBOOT 6.1\n\nVMEXIT 0\n' >/dev/fd/3; echo '{"Action":"pass","Package":"p"}' >/dev/fd/4; exit 33`
		fail    = `printf '\nVMEXIT 1\n' >/dev/fd/3; echo '{"Action":"fail","Package":"p"}' >/dev/fd/4; exit 35`
		refused = `exit 1`
	)
	whole := test{"p", ""}
	for _, test := range []struct {
		name   string
		script string
		calls  int
		code   int
		err    error
	}{
		{"passed", pass, 1, 0, nil},
		{"tests failed", fail, 1, 1, nil},
		{"failed once", `[ $(wc -l <"$(dirname "$0")/called") = 2 ] || { echo '{"Action":"fail","Package":"p"}' >/dev/fd/4; exit 0; }; ` + pass, 2, 0, nil},
		{"never started", refused, 2, 0, qemu.ErrInfra},
	} {
		t.Run(test.name, func(t *testing.T) {
			called := pretend(t, test.script)
			bin := t.TempDir()
			for _, name := range []string{"guest", "test2json"} {
				if err := os.WriteFile(filepath.Join(bin, name), nil, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			var shown bytes.Buffer
			r := &run{
				Options: Options{Folder: t.TempDir(), Top: t.TempDir()},
				payload: &payload{bin: bin}, output: lines.NewOutput(&shown), alone: true,
			}
			got := r.test(t.Context(), kernel.Kernel{Series: "6.1", Release: "6.1.0-1"})
			if got.code != test.code || !errors.Is(got.err, test.err) || got.release != "6.1.0-1" {
				t.Errorf("got %+v", got)
			}
			if calls, err := os.ReadFile(called); len(calls) != test.calls || err != nil {
				t.Errorf("machine ran %d times, want %d", len(calls), test.calls)
			}
			if again := strings.Contains(shown.String(), "again, since"); again != (test.calls == 2) {
				t.Errorf("shown: %q", shown.String())
			}
			// What the first machine said must not count for the second.
			if test.err == nil && test.code == 0 && (got.boot == 0 || got.tally.ends[whole] != passed) {
				t.Errorf("boot took %s, package ended by %q", got.boot, got.tally.ends[whole])
			}
			left, err := filepath.Glob(filepath.Join(r.Folder, "run", "6.1", "initrd"))
			if err != nil || len(left) != 0 {
				t.Errorf("%q is left, %v", left, err)
			}
		})
	}
}
