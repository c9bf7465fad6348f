// Package initramfs writes initial file systems for Linux: cpio archives in the
// format that Documentation/driver-api/early-userspace/buffer-format.rst
// calls newc. They are not compressed: an emulated processor would pay for that.
package initramfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// Writer writes an archive. Folders come into it by themselves. All belongs to
// root and has the time 0, so that equal content makes equal archives.
type Writer struct {
	w       io.Writer
	inode   uint32
	folders map[string]bool
	err     error // the first one
}

// NewWriter returns a writer of an archive to w.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: w, folders: map[string]bool{".": true}}
}

// File adds a regular file of size bytes, read from content. The name is
// relative or absolute.
func (a *Writer) File(name string, mode fs.FileMode, size int64, content io.Reader) error {
	const regular = 0o100000
	if size != int64(uint32(size)) {
		return fmt.Errorf("archive %s: %d bytes are too many for the format", name, size)
	}
	a.entry(name, regular|uint32(mode.Perm()), uint32(size))
	if a.err == nil {
		var n int64
		n, a.err = io.Copy(a.w, io.LimitReader(content, size))
		if a.err == nil && n < size {
			a.err = io.ErrUnexpectedEOF
		}
	}
	a.pad(size)
	return a.wrap(name)
}

// Link adds a symbolic link.
func (a *Writer) Link(name, target string) error {
	const symlink = 0o120000
	a.entry(name, symlink|0o777, uint32(len(target)))
	a.text(target)
	a.pad(int64(len(target)))
	return a.wrap(name)
}

// Folder adds a folder that nothing else may bring along.
func (a *Writer) Folder(name string) error {
	a.folder(clean(name))
	return a.wrap(name)
}

// Close ends the archive. It does not close the underlying writer.
func (a *Writer) Close() error {
	a.header("TRAILER!!!", 0, 0)
	return a.wrap("the end")
}

func (a *Writer) wrap(name string) error {
	if a.err != nil {
		return fmt.Errorf("archive %s: %w", name, a.err)
	}
	return nil
}

func clean(name string) string { return path.Clean(strings.TrimLeft(name, "/")) }

// entry writes the header of what is not a folder, after those of its folders.
func (a *Writer) entry(name string, mode, size uint32) {
	name = clean(name)
	if name == "." || name == ".." || strings.HasPrefix(name, "../") {
		a.err = errors.Join(a.err, errors.New("leave the archive's root"))
	}
	a.folder(path.Dir(name))
	a.header(name, mode, size)
}

func (a *Writer) folder(name string) {
	if a.folders[name] {
		return
	}
	const folder = 0o040000
	a.folders[name] = true
	a.folder(path.Dir(name))
	a.header(name, folder|0o755, 0)
}

func (a *Writer) header(name string, mode, size uint32) {
	a.inode++
	const links = 1
	fields := [13]uint32{0: a.inode, 1: mode, 4: links, 6: size, 11: uint32(len(name) + 1)}
	var text strings.Builder
	text.WriteString("070701")
	for _, field := range fields {
		fmt.Fprintf(&text, "%08x", field)
	}
	text.WriteString(name + "\x00")
	a.text(text.String())
	a.pad(int64(text.Len()))
}

// pad fills up to a multiple of four after n bytes.
func (a *Writer) pad(n int64) { a.text("\x00\x00\x00"[:-n&3]) }

func (a *Writer) text(s string) {
	if a.err == nil {
		_, a.err = io.WriteString(a.w, s)
	}
}
