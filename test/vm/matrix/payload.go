package matrix

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/bpfacq/bpfacq/test/vm/binary"
	"github.com/bpfacq/bpfacq/test/vm/initramfs"
	"github.com/bpfacq/bpfacq/test/vm/plan"
)

// source is where a machine has the repository's files, and below it, in a
// folder that the repository ignores, what was built of them.
const (
	source = "/src"
	built  = source + "/.build/vm"
)

// payload is what every machine gets, whatever its kernel.
type payload struct {
	top   string
	bin   string   // folder of the programs and test binaries
	packs []string // folders of packages, relative to top
	files []string // of the repository, relative to top
}

// build builds the payload in the folder bin.
func build(ctx context.Context, top, bin string, patterns []string) (*payload, error) {
	p := &payload{top: top, bin: bin}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return nil, err
	}
	list, err := p.run(ctx, "go", append([]string{"list", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}"}, patterns...)...)
	if err != nil {
		return nil, err
	}
	for dir := range strings.Lines(list) {
		pack, err := filepath.Rel(top, strings.TrimSpace(dir))
		if err != nil {
			return nil, err
		}
		p.packs = append(p.packs, filepath.ToSlash(pack))
		if err := p.compile(ctx, testBinary(pack), "./"+pack, "test", "-c"); err != nil {
			return nil, err
		}
	}
	if err := p.compile(ctx, "guest", "./test/vm/guest", "build"); err != nil {
		return nil, err
	}
	if err := p.compile(ctx, "test2json", "cmd/test2json", "build"); err != nil {
		return nil, err
	}
	// Also what is not committed yet.
	list, err = p.run(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	for file := range strings.SplitSeq(strings.Trim(list, "\x00"), "\x00") {
		if is, err := os.Lstat(filepath.Join(top, file)); err == nil && is.Mode().IsRegular() {
			p.files = append(p.files, file)
		}
	}
	return p, err
}

// testBinary is the name of a package's test binary.
func testBinary(pack string) string { return strings.ReplaceAll(pack, "/", "_") + ".test" }

func (p *payload) compile(ctx context.Context, name, pack string, command ...string) error {
	return binary.Build(ctx, p.top, filepath.Join(p.bin, name), pack, command...)
}

// run runs a command at the top and returns what it writes.
func (p *payload) run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = p.top
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("run %s %s: %w\n%s", name, args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// packages are the folders of the packages that are tested.
func (p *payload) packages() []string { return p.packs }

// tests is what the machine runs, in the way of go test.
func (p *payload) tests(flags []string) []plan.Test {
	var tests []plan.Test
	for _, pack := range p.packs {
		command := []string{
			built + "/test2json", "-t", "-p", pack, built + "/" + testBinary(pack),
			"-test.v=test2json", "-test.paniconexit0", "-test.timeout=" + testTimeout.String(),
		}
		tests = append(tests, plan.Test{Package: pack, Command: append(command, flags...)})
	}
	return tests
}

// addTo adds the payload to an initramfs.
func (p *payload) addTo(archive *initramfs.Writer) error {
	if err := addFile(archive, "/init", filepath.Join(p.bin, "guest")); err != nil {
		return err
	}
	binaries := []string{"test2json"}
	for _, pack := range p.packs {
		binaries = append(binaries, testBinary(pack))
	}
	for _, name := range binaries {
		if err := addFile(archive, built+"/"+name, filepath.Join(p.bin, name)); err != nil {
			return err
		}
	}
	for _, file := range p.files {
		if err := addFile(archive, source+"/"+file, filepath.Join(p.top, file)); err != nil {
			return err
		}
	}
	return nil
}

// makeDisk makes an empty file that is large enough for what tests change.
func makeDisk(path string) error {
	const size = 64 << 20
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return err
	}
	return os.Truncate(path, size)
}
