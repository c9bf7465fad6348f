package main

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestOnlyChangedFilesAreGivenBack(t *testing.T) {
	folder, disk := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	write := func(name, content string, modified time.Time) {
		t.Helper()
		path := filepath.Join(folder, name)
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644), os.Chtimes(path, modified, modified))
		if err != nil {
			t.Fatal(err)
		}
	}
	past := time.Unix(0, 0)
	write("same", "same", past)
	write("a/changed", "old", past)
	write("a/rewritten", "old", past)
	before, err := survey(folder)
	if err != nil {
		t.Fatal(err)
	}
	write("a/changed", "changed", past)
	write("a/rewritten", "new", past.Add(time.Second))
	write("b/added", "added", past)
	if err := os.WriteFile(disk, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := before.giveBack(folder, disk); err != nil {
		t.Fatal(err)
	}

	file, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	got := make(map[string]string)
	for r := tar.NewReader(file); ; {
		header, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[header.Name] = string(content)
	}
	want := map[string]string{"a/changed": "changed", "a/rewritten": "new", "b/added": "added"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
