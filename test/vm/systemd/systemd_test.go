package systemd

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/test/vm/kernel"
	"github.com/bpfacq/bpfacq/test/vm/qemu"
)

func TestOnlyTestsThatEndedWellPass(t *testing.T) {
	var table strings.Builder
	passed := result{kernel: kernel.Kernel{Series: "6.1", Release: "6.1.0-1"}, took: 90 * time.Second}
	failed := result{kernel: kernel.Kernel{Series: "6.12", Release: "6.12.1"}, took: time.Minute, code: 1}
	lost := result{kernel: kernel.Kernel{Series: "7.3", Release: "7.3.1"}, took: time.Second, err: qemu.ErrInfra}
	err := judge(&table, []result{passed, failed, lost})
	if err == nil || !strings.Contains(err.Error(), "kernel 6.12: failed") || !strings.Contains(err.Error(), "kernel 7.3: not run") ||
		strings.Contains(err.Error(), "kernel 6.1:") {
		t.Errorf("got %v", err)
	}
	const want = "KERNEL  RELEASE  SECONDS  TESTS\n" +
		"6.1     6.1.0-1  90       passed\n" +
		"6.12    6.12.1   60       failed\n" +
		"7.3     7.3.1    1        not run: run virtual machine\n"
	if diff := cmp.Diff(want, table.String()); diff != "" {
		t.Error(diff)
	}
	if err := judge(io.Discard, []result{passed}); err != nil {
		t.Errorf("got %v of a test that passed", err)
	}
}

func TestGuestFilesKeepTheirPlacesAndScriptsRun(t *testing.T) {
	spec, err := guestImage(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	modes := make(map[string]os.FileMode)
	for _, file := range spec.Files {
		modes[file.Path] = file.Mode
	}
	for path, want := range map[string]os.FileMode{
		"/etc/systemd/system/test.service": 0o644,
		"/usr/lib/vmtest/run":              0o755,
	} {
		if got, there := modes[path]; !there || got != want {
			t.Errorf("%s: mode %v, %v, want %v", path, got, there, want)
		}
	}
}

func TestPartsBecomeATarOfTheGuestsRoot(t *testing.T) {
	folder := t.TempDir()
	file := func(name string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	p := parts{deb: file("x.deb"), readme: file("README.md"), test: file("test_host.test"), guest: file("guest")}
	var archive bytes.Buffer
	if err := p.write(&archive, []string{file("003-veth.ko")}); err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(&archive)
	var names []string
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
	}
	slices.Sort(names)
	want := []string{
		"root/download/x.deb", "src/README.md", "src/environment", "src/guest", "src/modules/veth.ko", "src/test/host/test_host.test",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
}

func TestPackageThatWasBuiltLastIsTaken(t *testing.T) {
	folder := t.TempDir()
	if path, err := newestPackage(folder); err == nil {
		t.Errorf("got %q from an empty folder", path)
	}
	now := time.Now()
	for name, built := range map[string]time.Time{
		"bpfacq_9_amd64.deb": now.Add(-time.Hour), "bpfacq_1_amd64.deb": now, "bpfacq_2_arm64.deb": now.Add(time.Hour),
	} {
		path := filepath.Join(folder, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, built, built)); err != nil {
			t.Fatal(err)
		}
	}
	path, err := newestPackage(folder)
	if want := filepath.Join(folder, "bpfacq_1_amd64.deb"); path != want || err != nil {
		t.Errorf("got %q, %v, want %q", path, err, want)
	}
}
