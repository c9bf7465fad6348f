package qemu

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBothWitnessesMustAgree(t *testing.T) {
	const panicked = "[    0.9] Kernel panic - not syncing: No working init found.\n[    1.0] ---[ end Kernel panic"
	for _, test := range []struct {
		name    string
		exit    int
		console string
		want    int
		err     string // "" for none
	}{
		{"passed", 33, "VMBOOT 6.1\n\nVMEXIT 0\n", 0, ""},
		{"failed", 35, "\nVMEXIT 1\n", 1, ""},
		{"failed otherwise", 37, "\nVMEXIT 2\n", 2, ""},
		{"carriage returns", 33, "\r\nVMEXIT 0\r\n", 0, ""},
		{"last line counts", 35, "\nVMEXIT 0\n\nVMEXIT 1\n", 1, ""},
		{"QEMU refused to start", 1, "", 0, "QEMU ended with code 1"},
		{"guest without the base", 1, "\nVMEXIT 0\n", 0, "QEMU ended with code 1"},
		{"panic", 0, panicked, 0, `"[    0.9] Kernel panic - not syncing: No working init found."`},
		{"power off", 0, "\nVMEXIT 0\n", 0, "without a verdict"},
		{"killed", -1, "\nVMEXIT 0\n", 0, "QEMU ended with code -1"},
		{"aborted", 134, "\nVMEXIT 0\n", 0, "QEMU ended with code 134"},
		{"no line", 33, "VMBOOT 6.1\n", 0, "lacks the line"},
		{"line begun by another", 33, "ok VMEXIT 0\n", 0, "lacks the line"},
		{"witnesses differ", 33, "\nVMEXIT 1\n", 0, "console says 1, QEMU 0"},
		{"witnesses differ the other way", 35, "\nVMEXIT 0\n", 0, "console says 0, QEMU 1"},
		{"code with more digits", 33, "\nVMEXIT 01\n", 0, "console says 01, QEMU 0"},
		{"oops beside a pass", 0, "BUG: kernel NULL pointer\nOops: 0002\n", 0, `"BUG: kernel NULL pointer"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := judge(test.exit, []byte(test.console))
			if test.err == "" {
				if got != test.want || err != nil {
					t.Errorf("got %d, %v, want %d", got, err, test.want)
				}
				return
			}
			if !errors.Is(err, ErrInfra) || !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %d, %v, want ErrInfra with %q", got, err, test.err)
			}
		})
	}
}

func TestGuestAndJudgeMeanTheSame(t *testing.T) {
	for code := range 3 {
		exit := int(ExitValue(code)<<1 | 1) // as isa-debug-exit has it
		if got, err := judge(exit, []byte("words without an end"+ExitLine(code))); got != code || err != nil {
			t.Errorf("code %d: got %d, %v", code, got, err)
		}
	}
}

// pretend puts a shell script in the place of QEMU.
func pretend(t *testing.T, script string) {
	t.Helper()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, program), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", folder+":/usr/bin:/bin")
}

func TestMachineGivesItsCodeAndWhatItSaid(t *testing.T) {
	pretend(t, `printf 'VMBOOT 6.1\n\nVMEXIT 1\n' >/dev/fd/3; echo '{}' >/dev/fd/4; exit 35`)
	var console, output bytes.Buffer
	code, err := Machine{Console: &console, Output: &output, Timeout: time.Minute}.Run(t.Context())
	if code != 1 || err != nil {
		t.Errorf("got %d, %v, want 1", code, err)
	}
	if want := "VMBOOT 6.1\n\nVMEXIT 1\n"; console.String() != want || output.String() != "{}\n" {
		t.Errorf("console %q, output %q", &console, &output)
	}
}

func TestQEMUThatDoesNotRunIsNoVerdict(t *testing.T) {
	for _, test := range []struct{ name, script, want string }{
		{"refuses its options", `echo "Property 'x' not found" >&2; exit 1`, "Property 'x' not found"},
		{"hangs", `echo 'Oops: int3' >/dev/fd/3; exec sleep 600`, `not done after 500ms: "Oops: int3"`},
		{"is killed", `kill -9 $$`, "code -1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pretend(t, test.script)
			var console, output bytes.Buffer
			_, err := Machine{Console: &console, Output: &output, Timeout: 500 * time.Millisecond}.Run(t.Context())
			if !errors.Is(err, ErrInfra) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want ErrInfra with %q", err, test.want)
			}
		})
	}
	t.Run("is not there", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		var console, output bytes.Buffer
		if _, err := (Machine{Console: &console, Output: &output, Timeout: time.Minute}).Run(t.Context()); !errors.Is(err, ErrInfra) {
			t.Errorf("got %v, want ErrInfra", err)
		}
	})
}

func TestInterruptedRunIsNoFaultOfTheMachine(t *testing.T) {
	pretend(t, "exec sleep 600")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var console, output bytes.Buffer
	_, err := Machine{Console: &console, Output: &output, Timeout: time.Minute}.Run(ctx)
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrInfra) {
		t.Errorf("got %v, want %v alone", err, context.Canceled)
	}
}

func TestDrivesKeepNothingUnlessAsked(t *testing.T) {
	args := strings.Join(Machine{Drives: []Drive{{Path: "a,b"}, {Path: "c", Keep: true}}}.arguments(), " ")
	for _, want := range []string{
		"file=a,,b,format=raw,if=none,id=d0,snapshot=on", "nvme,drive=d0,", "file=c,format=raw,if=none,id=d1,snapshot=off", "-accel tcg", "-smp 1",
	} {
		if !strings.Contains(args, want) {
			t.Errorf("%q lacks %q", args, want)
		}
	}
	if strings.Contains(args, "-initrd") {
		t.Errorf("%q has an initramfs", args)
	}
}
