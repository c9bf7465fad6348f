package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/bpfacq/bpfacq/test/vm/lines"
)

// builder makes one image in a folder of its own.
type builder struct {
	spec Spec
	work string
}

// build makes the image and moves it to its place.
func (b *builder) build(ctx context.Context, sources, path string) error {
	files, err := b.spec.archive()
	if err != nil {
		return err
	}
	archive, root, made := filepath.Join(b.work, "files.tar"), filepath.Join(b.work, "root"), filepath.Join(b.work, "image")
	if err := os.WriteFile(archive, files, 0o644); err != nil {
		return err
	}
	if err := b.bootstrap(ctx, sources, archive, root); err != nil {
		return err
	}
	b.sayf("image %s: writing the file system", b.spec.Name)
	// No journal and no checksums: nobody needs an image after a crash.
	err = b.run(ctx, nil, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum", "-m", "0",
		"-L", "root", "-d", root, made, strconv.FormatInt(b.spec.Size>>10, 10)+"k")
	if err != nil {
		return err
	}
	if err := os.Rename(made, path); err != nil {
		return err
	}
	return removeOthers(path, b.spec.Name)
}

// removeOthers removes the images that earlier specs of the same name described.
func removeOthers(path, name string) error {
	images, err := filepath.Glob(filepath.Join(filepath.Dir(path), name+"-*.ext4"))
	if err != nil {
		return err
	}
	for _, image := range images {
		if image != path {
			err = errors.Join(err, os.Remove(image))
		}
	}
	return err
}

// bootstrap installs the system into the folder root.
func (b *builder) bootstrap(ctx context.Context, sources, archive, root string) error {
	args := []string{
		"--mode=root", "--variant=minbase", "--format=directory",
		"--include=" + strings.Join(b.spec.Packages, ","),
		"--dpkgopt=path-exclude=/usr/share/doc/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*",
		"--dpkgopt=path-exclude=/usr/share/man/*",
		"--customize-hook=tar-in " + archive + " /",
		// These two mmdebstrap takes from this machine.
		`--customize-hook=echo ` + b.spec.Name + ` >"$1/etc/hostname"; rm -f "$1/etc/resolv.conf"`,
	}
	for _, line := range b.spec.Run {
		args = append(args, `--customize-hook=chroot "$1" sh -ec `+quote(line))
	}
	args = append(args, b.spec.Suite, root, "-")
	return b.run(ctx, strings.NewReader(sources), "mmdebstrap", args...)
}

func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// run runs a command as root, and on failure says what it said at the end.
func (b *builder) run(ctx context.Context, stdin io.Reader, name string, args ...string) error {
	if os.Geteuid() != 0 {
		name, args = "sudo", append([]string{name}, args...)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	// Bare systems keep these folders out of users' search path.
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Stdin = stdin
	said := &teller{b: b}
	all := &lines.Splitter{Take: said.take}
	cmd.Stdout, cmd.Stderr = all, all
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s: %w\n%s", name, err, said.tail())
	}
	return nil
}

func (b *builder) sayf(format string, args ...any) {
	if b.spec.Progress != nil {
		fmt.Fprintf(b.spec.Progress, format+"\n", args...)
	}
}

// teller keeps what a command says, and passes on mmdebstrap's milestones.
type teller struct {
	b    *builder
	said []string
}

var milestone = regexp.MustCompile(`^I: ((?:downloading|installing|running apt-get|extracting|cleaning).*?)\.*$`)

func (t *teller) take(line []byte) error {
	t.said = append(t.said, string(line))
	if m := milestone.FindSubmatch(line); m != nil {
		t.b.sayf("image %s: %s", t.b.spec.Name, m[1])
	}
	return nil
}

func (t *teller) tail() string {
	const limit = 20
	return strings.Join(t.said[max(0, len(t.said)-limit):], "\n")
}
