package kernel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNotOffered is wrapped by the error for a series that the archive does not
// have.
var ErrNotOffered = errors.New("find a kernel: none is offered")

// Kernel is ready to be booted.
type Kernel struct {
	Series  string // such as "6.1", also of the newest
	Release string // what uname -r says
	Image   string // path of the uncompressed kernel
	Modules []string
}

// recipe is the number of the way in which kernels are kept. A new one makes all
// that are kept stale.
const recipe = "1"

// keep returns the kernel of packages' files, unpacked below folder if it is not
// there yet.
func keep(ctx context.Context, folder, exact string, files, wanted []string) (Kernel, error) {
	place := filepath.Join(folder, fmt.Sprintf("%s-%s", exact, digest(files)))
	kept := place + "-" + digest(wanted)
	if _, err := os.Stat(kept); err != nil {
		err := removeOthers(filepath.Join(folder, exact+"-"), place)
		if err == nil {
			err = unpack(ctx, files, folder, kept, wanted)
		}
		if err != nil {
			return Kernel{}, fmt.Errorf("unpack kernel %s: %w", exact, err)
		}
	}
	return open(kept, exact)
}

// digest names a part of what a kept kernel depends on: files or words.
func digest(names []string) string {
	sum := sha256.New()
	fmt.Fprintln(sum, recipe)
	for _, name := range names {
		fmt.Fprintln(sum, filepath.Base(name))
	}
	return fmt.Sprintf("%.4x", sum.Sum(nil))
}

// removeOthers removes what begins so, but not what begins like place: the
// kernels of older packages, but not those with other modules.
func removeOthers(begin, place string) error {
	paths, err := filepath.Glob(begin + "*")
	if err != nil {
		return err
	}
	for _, path := range paths {
		if strings.HasPrefix(path, place) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

func open(folder, series string) (Kernel, error) {
	release, err := os.ReadFile(filepath.Join(folder, "release"))
	if err != nil {
		return Kernel{}, err
	}
	modules, err := filepath.Glob(filepath.Join(folder, "modules", "*.ko"))
	if err != nil {
		return Kernel{}, err
	}
	slices.Sort(modules)
	return Kernel{
		Series: series, Release: strings.TrimSpace(string(release)),
		Image: filepath.Join(folder, "vmlinux"), Modules: modules,
	}, nil
}

// unpack makes the folder of a kernel, whole or not at all.
func unpack(ctx context.Context, files []string, folder, kept string, wanted []string) (err error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(folder, "making-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	root, made := filepath.Join(work, "root"), filepath.Join(work, "made")
	for _, file := range files {
		if _, err := output(exec.CommandContext(ctx, "dpkg-deb", "-x", file, root)); err != nil {
			return err
		}
	}
	if err := fill(ctx, root, made, wanted); err != nil {
		return err
	}
	return os.Rename(made, kept)
}

// fill puts into the folder made what is needed of an unpacked kernel.
func fill(ctx context.Context, root, made string, wanted []string) error {
	if err := os.MkdirAll(filepath.Join(made, "modules"), 0o755); err != nil {
		return err
	}
	tree, err := only(root, "lib/modules/*", "usr/lib/modules/*")
	if err != nil {
		return err
	}
	compressed, err := only(root, "boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz")
	if err != nil {
		return err
	}
	image, err := os.ReadFile(compressed)
	if err != nil {
		return err
	}
	if image, err = payload(image); err != nil {
		return err
	}
	if image, err = decompress(ctx, image); err != nil {
		return err
	}
	modules, err := inOrder(os.DirFS(tree), wanted, func(path string) (module, error) {
		return readModule(ctx, filepath.Join(tree, path))
	})
	if err != nil {
		return err
	}
	for i, m := range modules {
		path := filepath.Join(made, "modules", fmt.Sprintf("%03d-%s.ko", i, m.name))
		if err := os.WriteFile(path, m.image, 0o644); err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile(filepath.Join(made, "vmlinux"), image, 0o644),
		os.WriteFile(filepath.Join(made, "release"), []byte(filepath.Base(tree)+"\n"), 0o644),
	)
}

// only returns the one path below root that matches a pattern.
func only(root string, patterns ...string) (string, error) {
	var found []string
	for _, pattern := range patterns {
		matches, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return "", err
		}
		found = append(found, matches...)
	}
	if len(found) != 1 {
		return "", fmt.Errorf("find %s: %d match", patterns[0], len(found))
	}
	return found[0], nil
}

func decompress(ctx context.Context, content []byte) ([]byte, error) {
	command, err := decompressor(content)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin = bytes.NewReader(content)
	return output(cmd)
}

// output runs a command and returns what it writes. Its error has what the
// command complains of.
func output(cmd *exec.Cmd) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("run %s: %w: %s", cmd.Path, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}
