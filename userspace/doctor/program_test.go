package doctor

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
)

func TestProgramsOfTheHostAreRun(t *testing.T) {
	out, err := RunProgram(t.Context(), "sh", "-c", `echo "$LC_ALL $0"; echo noise >&2`, "argument")
	if err != nil || string(out) != "C argument\n" {
		t.Errorf("output %q, %v", out, err)
	}
	out, err = RunProgram(t.Context(), "sh", "-c", "echo lost; echo cause >&2; exit 3")
	if out != nil || err == nil || !strings.HasSuffix(err.Error(), "exit status 3: cause") {
		t.Errorf("a program that fails: %q, %v", out, err)
	}
	if out, err := RunProgram(t.Context(), "bpfacq-no-such-program"); out != nil || !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("no program: %q, %v; want ErrNotFound", out, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if out, err := RunProgram(ctx, "sh", "-c", "echo late"); out != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("a program that is not waited for: %q, %v; want Canceled", out, err)
	}
}
