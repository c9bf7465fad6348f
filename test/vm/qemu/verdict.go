package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
)

// ExitPort is the I/O port of the machine's debug exit device: a 32-bit value
// that the guest writes there ends QEMU with that value twice and one more.
const ExitPort = 0xf4

// exitBase is what the guest adds to its code: the exit codes that remain mean
// something else, 1 for one that QEMU did not start.
const exitBase = 16

// ErrInfra is wrapped by errors that say nothing about what ran in the machine.
var ErrInfra = errors.New("run virtual machine")

// ExitValue is what the guest writes to ExitPort to end with a code.
func ExitValue(code int) uint32 { return uint32(code + exitBase) }

// ExitLine is the line, with an end before it, that the guest writes to its
// console first. It is the second witness of the code.
func ExitLine(code int) string { return fmt.Sprintf("\nVMEXIT %d\n", code) }

var (
	exitLine = regexp.MustCompile(`(?m)^VMEXIT ([0-9]+)\b`)
	trouble  = regexp.MustCompile(`(?m)^.*(?:Oops|Kernel panic|BUG: |Unable to mount|panic: |fatal error: ).*$`)
)

// judge returns the code that the guest gave if both witnesses agree on it: how
// QEMU ended, and the console.
func judge(exit int, console []byte) (int, error) {
	code := exit>>1 - exitBase
	lines := exitLine.FindAllSubmatch(console, -1)
	switch {
	case exit == 0:
		return 0, fmt.Errorf("%w: the guest stopped without a verdict%s", ErrInfra, oops(console))
	case exit&1 == 0 || code < 0:
		return 0, fmt.Errorf("%w: QEMU ended with code %d%s", ErrInfra, exit, oops(console))
	case len(lines) == 0:
		return 0, fmt.Errorf("%w: the console lacks the line of the verdict %d%s", ErrInfra, code, oops(console))
	}
	if said := string(lines[len(lines)-1][1]); said != strconv.Itoa(code) {
		return 0, fmt.Errorf("%w: the console says %s, QEMU %d%s", ErrInfra, said, code, oops(console))
	}
	return code, nil
}

// Insist boots, and once more, saying so, if that says nothing about what ran in
// the machine. Whatever else went wrong gets no second chance.
func Insist(ctx context.Context, say io.Writer, boot func() error) error {
	err := boot()
	if errors.Is(err, ErrInfra) && ctx.Err() == nil {
		fmt.Fprintf(say, "again, since this says nothing of the tests: %v\n", err)
		err = boot()
	}
	return err
}

// oops quotes the first line of the console that tells of a crash.
func oops(console []byte) string {
	line := bytes.TrimSpace(trouble.Find(console))
	if len(line) == 0 {
		return ""
	}
	return fmt.Sprintf(": %q", line)
}
