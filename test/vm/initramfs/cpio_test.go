package initramfs

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// list reads an archive and returns a line for each member: mode, name and
// content.
func list(t *testing.T, archive []byte) string {
	t.Helper()
	var lines strings.Builder
	r := bytes.NewReader(archive)
	next := func(n int64) string {
		t.Helper()
		part := make([]byte, (n+3)&^3)
		if _, err := io.ReadFull(r, part); err != nil {
			t.Fatal(err)
		}
		return string(part[:n])
	}
	for {
		const size = 110
		header := make([]byte, size)
		if _, err := io.ReadFull(r, header); err != nil {
			t.Fatal(err)
		}
		field := func(n int) int64 {
			v, err := strconv.ParseInt(string(header[6+8*n:14+8*n]), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		if magic := string(header[:6]); magic != "070701" {
			t.Fatalf("magic is %q", magic)
		}
		// Header and name together fill words.
		length := field(11)
		name := make([]byte, (size+length+3)&^3-size)
		if _, err := io.ReadFull(r, name); err != nil {
			t.Fatal(err)
		}
		content := next(field(6))
		if string(name[:length]) == "TRAILER!!!\x00" {
			if r.Len() != 0 {
				t.Errorf("%d bytes follow the end", r.Len())
			}
			return lines.String()
		}
		fmt.Fprintf(&lines, "%o %s %q\n", field(1), strings.TrimRight(string(name), "\x00"), content)
	}
}

func TestArchiveHoldsFilesAndTheirFolders(t *testing.T) {
	var archive bytes.Buffer
	w := NewWriter(&archive)
	for _, file := range []struct {
		name, content string
		mode          fs.FileMode
	}{
		{"/init", "static", 0o755}, {"a/b/c", "", 0o644}, {"/a/b/dd", "1", 0o600}, {"a/eee", "12345", 0o644},
	} {
		if err := w.File(file.name, file.mode, int64(len(file.content)), strings.NewReader(file.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Link("/a/link", "b/c"); err != nil {
		t.Fatal(err)
	}
	if err := w.Folder("/proc"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	want := `100755 init "static"
40755 a ""
40755 a/b ""
100644 a/b/c ""
100600 a/b/dd "1"
100644 a/eee "12345"
120777 a/link "b/c"
40755 proc ""
`
	if diff := cmp.Diff(want, list(t, archive.Bytes())); diff != "" {
		t.Error(diff)
	}
}

func TestWhatDoesNotFitIsRefused(t *testing.T) {
	for _, test := range []struct {
		name string
		size int64
	}{
		{"too-large", 1 << 32}, {"negative", -1}, {"shorter-than-said", 3}, {"../outside", 2}, {"/", 2}, {"a/../..", 2},
	} {
		if err := NewWriter(io.Discard).File(test.name, 0o644, test.size, strings.NewReader("ab")); err == nil {
			t.Errorf("%s is accepted", test.name)
		}
	}
}

func TestFirstErrorStays(t *testing.T) {
	w := NewWriter(io.Discard)
	w.File("..", 0o644, 0, strings.NewReader(""))
	if err := w.Close(); err == nil {
		t.Error("archive with a bad member is closed without a word")
	}
}
