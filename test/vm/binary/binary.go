// Package binary builds the programs and tests that virtual machines run.
package binary

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
)

// Build has a command of go, such as "build" or "test", "-c", write the binary of a
// package to a path. It is static: it runs on a system that has other libraries
// than this one. top is the folder of the module.
func Build(ctx context.Context, top, path, pack string, command ...string) error {
	cmd := exec.CommandContext(ctx, "go", append(command, "-trimpath", "-ldflags=-s -w", "-o", path, pack)...)
	cmd.Dir = top
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pack, err, bytes.TrimSpace(said))
	}
	return nil
}
