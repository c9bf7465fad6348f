package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Apt is an apt of its own, with its sources, lists and files in one folder.
type Apt struct {
	folder string
}

// ErrGone is wrapped by an error that says nothing but that archives no longer have
// a suite.
var ErrGone = errors.New("suite is not in the archive")

// freshness is how old lists may be.
const freshness = 12 * time.Hour

// Open returns the apt in a folder, made if it is not there, with these sources.
func Open(folder string, sources []Source) (*Apt, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return nil, err
	}
	a := &Apt{folder: folder}
	for _, part := range []string{"lists/partial", "cache/archives/partial", "files"} {
		if err := os.MkdirAll(a.path(part), 0o755); err != nil {
			return nil, err
		}
	}
	var list strings.Builder
	for _, s := range sources {
		fmt.Fprintln(&list, s)
	}
	if old, err := os.ReadFile(a.path("sources.list")); err != nil || string(old) != list.String() {
		if err := a.forget(); err != nil {
			return nil, err
		}
	}
	return a, errors.Join(
		os.WriteFile(a.path("sources.list"), []byte(list.String()), 0o644),
		os.WriteFile(a.path("status"), nil, 0o644), // nothing is installed
		os.WriteFile(a.path("apt.conf"), []byte(a.configuration()), 0o644),
	)
}

func (a *Apt) path(name string) string { return filepath.Join(a.folder, name) }

// configuration lets apt see nothing of the machine but its keys. The releases
// that get no more updates let their lists expire.
func (a *Apt) configuration() string {
	return fmt.Sprintf(`Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State "%[1]s";
Dir::State::lists "%[1]s/lists";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
APT::Architecture "amd64";
APT::Sandbox::User "";
`, a.folder)
}

// stamp is the file that was written when the lists were read.
const stamp = "updated"

func (a *Apt) forget() error {
	if err := os.Remove(a.path(stamp)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Update reads the lists of packages, unless those at hand are fresh. The error
// names what is not to be had; the rest is usable, if there is a rest. It wraps
// ErrGone if the archives were reached.
func (a *Apt) Update(ctx context.Context) error {
	if a.fresh() {
		return nil
	}
	if _, err := a.run(ctx, a.path("files"), "apt-get", "-q", "--error-on=any", "update"); err != nil {
		return err
	}
	return a.read()
}

func (a *Apt) fresh() bool {
	is, err := os.Stat(a.path(stamp))
	return err == nil && time.Since(is.ModTime()) < freshness
}

// read notes that the lists were read.
func (a *Apt) read() error { return os.WriteFile(a.path(stamp), nil, 0o644) }

// Names returns the names of all packages.
func (a *Apt) Names(ctx context.Context) ([]string, error) {
	text, err := a.run(ctx, a.path("files"), "apt-cache", "pkgnames")
	return strings.Fields(text), err
}

// Fetch returns the paths of the newest files of packages, fetched if they are
// not there. Older ones are removed. The base of a path holds the version.
func (a *Apt) Fetch(ctx context.Context, packages ...string) ([]string, error) {
	var paths []string
	for _, name := range packages {
		path, err := a.fetch(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("fetch package %s: %w", name, err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func (a *Apt) fetch(ctx context.Context, name string) (string, error) {
	// 'URI' file size hash, where the file is not yet in the folder.
	text, err := a.run(ctx, a.folder, "apt-get", "-q", "download", "--print-uris", name)
	if err != nil {
		return "", err
	}
	fields := strings.Fields(text)
	if len(fields) < 2 || filepath.Base(fields[1]) != fields[1] {
		return "", fmt.Errorf("find file: apt says %q", text)
	}
	path := filepath.Join(a.path("files"), fields[1])
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	old, err := filepath.Glob(filepath.Join(a.path("files"), name+"_*"))
	if err != nil {
		return "", err
	}
	for _, file := range old {
		if err := os.Remove(file); err != nil {
			return "", err
		}
	}
	if _, err := a.run(ctx, a.path("files"), "apt-get", "-q", "download", name); err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", err
	}
	return path, nil
}

// run runs a program of apt in a folder and returns what it says.
func (a *Apt) run(ctx context.Context, folder, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.path("apt.conf"), "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		err = fmt.Errorf("run %s: %w%s", name, err, complaint(stderr.String()))
		if gone(stderr.String()) {
			err = fmt.Errorf("%w: %w", ErrGone, err)
		}
		return stdout.String(), err
	}
	return stdout.String(), nil
}

// gone reports whether apt complains of suites that are not there, and of nothing
// else.
func gone(stderr string) bool {
	found := false
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "E: ") {
			continue
		}
		if !strings.Contains(line, "does not have a Release file") && !strings.Contains(line, "no longer has a Release file") {
			return false
		}
		found = true
	}
	return found
}

// complaint quotes the first line that apt marks as bad.
func complaint(stderr string) string {
	for line := range strings.Lines(stderr) {
		for _, mark := range []string{"E: ", "Err:"} {
			if text, found := strings.CutPrefix(line, mark); found {
				return ": " + strings.TrimSpace(text)
			}
		}
	}
	return ""
}
