package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func inodeAt(t *testing.T, path string) uint64 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Ino
}

func TestNetworkNamespacesAreFoundAsPeopleNameThem(t *testing.T) {
	e := &env{namespaces: t.TempDir()}
	blue := filepath.Join(e.namespaces, "blue")
	if err := os.Symlink("/proc/self/ns/net", blue); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(os.Getpid())
	own := inodeAt(t, "/proc/self/ns/net")
	for text, want := range map[string]namespace{
		"":                  {},
		"blue":              {own, "blue"},
		blue:                {own, blue},
		pid:                 {own, pid},
		"/proc/self/ns/net": {own, "/proc/self/ns/net"},
	} {
		if got, err := e.findNamespace(text); err != nil || got != want {
			t.Errorf("%q is %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"red", "/nonexistent", "0"} {
		if got, err := e.findNamespace(text); !errors.Is(err, fs.ErrNotExist) || got != (namespace{}) {
			t.Errorf("%q is %+v, %v; want ErrNotExist", text, got, err)
		}
	}
	for _, text := range []string{"/proc/self/ns/mnt", "/proc/self/status", e.namespaces} {
		if got, err := e.findNamespace(text); !errors.Is(err, errNoNamespace) || got != (namespace{}) {
			t.Errorf("%q is %+v, %v; want errNoNamespace", text, got, err)
		}
	}
	if got := e.knownNamespaces(); len(got) != 1 || got[0] != "blue" {
		t.Errorf("known namespaces are %q", got)
	}
}
