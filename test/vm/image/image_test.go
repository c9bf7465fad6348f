package image

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestSourcesAreThoseOfTheMachine(t *testing.T) {
	machine := fstest.MapFS{
		"etc/os-release": {Data: []byte("VERSION_CODENAME=bookworm\n")},
		"etc/apt/sources.list": {Data: []byte("deb [signed-by=/k.gpg] http://mirror.example/debian bookworm main\n" +
			"deb http://vendor.example/apt stable main\n" +
			"deb http://mirror.example/security bookworm-security main\n")},
	}
	lines, err := sourceLines(machine, "trixie")
	if err != nil {
		t.Fatal(err)
	}
	const want = "deb [signed-by=/k.gpg] http://mirror.example/debian trixie main\ndeb http://mirror.example/security trixie-security main\n"
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
	machine["etc/os-release"].Data = []byte("VERSION_CODENAME=sid\n")
	if lines, err := sourceLines(machine, "trixie"); err == nil {
		t.Errorf("got %q of a machine that knows no archive of its release", lines)
	}
}

func TestDigestFollowsWhatTheImageHolds(t *testing.T) {
	spec := Spec{Name: "x", Suite: "bookworm", Packages: []string{"dbus"}, Size: 1 << 30}
	same := spec
	same.Progress = io.Discard
	if spec.digest() != same.digest() {
		t.Error("digest depends on who listens")
	}
	for name, change := range map[string]func(*Spec){
		"suite":    func(s *Spec) { s.Suite = "trixie" },
		"packages": func(s *Spec) { s.Packages = []string{"dbus", "udev"} },
		"files":    func(s *Spec) { s.Files = []File{{Path: "/a", Mode: 0o644, Text: "b"}} },
		"lines":    func(s *Spec) { s.Run = []string{"true"} },
		"size":     func(s *Spec) { s.Size++ },
	} {
		changed := spec
		change(&changed)
		if changed.digest() == spec.digest() {
			t.Errorf("%s: digest stays", name)
		}
	}
}

func TestKeptImageIsReturned(t *testing.T) {
	spec := Spec{Name: "kept", Suite: "no such release"}
	folder := t.TempDir()
	kept := filepath.Join(folder, "kept-"+spec.digest()+".ext4")
	if err := os.WriteFile(kept, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	path, err := Build(t.Context(), folder, spec)
	if err != nil || path != kept {
		t.Errorf("got %q, %v, want %q", path, err, kept)
	}
}

func TestNewImageReplacesOlderOnesOfItsName(t *testing.T) {
	folder := t.TempDir()
	made := filepath.Join(folder, "x-2.ext4")
	for _, name := range []string{"x-1.ext4", "x-2.ext4", "y-1.ext4"} {
		if err := os.WriteFile(filepath.Join(folder, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeOthers(made, "x"); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{made, filepath.Join(folder, "y-1.ext4")}; !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
}

func TestFilesBecomeAnArchiveOwnedByRoot(t *testing.T) {
	text, err := Spec{Files: []File{{Path: "/usr/bin/x", Mode: 0o755, Text: "#!"}}}.archive()
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(bytes.NewReader(text))
	header, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if header.Name != "usr/bin/x" || header.Mode != 0o755 || header.Uid != 0 || header.Gid != 0 || string(content) != "#!" {
		t.Errorf("got %+v with %q", header, content)
	}
	if _, err := (Spec{Files: []File{{Path: "x"}}}).archive(); err == nil {
		t.Error("relative path is accepted")
	}
}

func TestMilestonesArePassedOn(t *testing.T) {
	var progress bytes.Buffer
	said := &teller{b: &builder{spec: Spec{Name: "x", Progress: &progress}}}
	for _, line := range []string{"I: installing packages...", "Setting up dbus", "I: cleaning package lists..."} {
		if err := said.take([]byte(line)); err != nil {
			t.Error(err)
		}
	}
	if want := "image x: installing packages\nimage x: cleaning package lists\n"; progress.String() != want {
		t.Errorf("got %q, want %q", progress.String(), want)
	}
	if tail := said.tail(); !strings.Contains(tail, "Setting up dbus") {
		t.Errorf("tail is %q", tail)
	}
}
