// Package image builds the root file systems of virtual machines: a Debian by
// mmdebstrap, in a sparse ext4 file that every kernel with ext4 can mount.
package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Spec says what an image holds. Images of equal specs are built once.
type Spec struct {
	// Name is the start of the file's name.
	Name string
	// Suite is Debian's name of the release.
	Suite string
	// Packages are installed beside a minimal system, without what they recommend.
	Packages []string
	// Files are put in after that.
	Files []File
	// Run are shell lines, run at the end as root inside the new system. No
	// process 1 runs there.
	Run []string
	// Size of the file system in bytes.
	Size int64
	// Progress is told what takes long, a line each.
	Progress io.Writer `json:"-"`
}

// File is a regular file of an image, owned by root.
type File struct {
	Path string // absolute
	Mode fs.FileMode
	Text string
}

// recipe is the number of the way in which images are built. A new one makes
// all kept images stale.
const recipe = 1

// Build returns the path of the image that spec describes, below folder. It
// builds what is not there yet; that needs root or sudo, mmdebstrap and mke2fs,
// and takes a minute. The packages come from where this machine's apt gets its
// own. The image must be opened read-only, or with a snapshot on top.
func Build(ctx context.Context, folder string, spec Spec) (path string, err error) {
	path = filepath.Join(folder, fmt.Sprintf("%s-%s.ext4", spec.Name, spec.digest()))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	sources, err := sourceLines(os.DirFS("/"), spec.Suite)
	if err != nil {
		return "", fmt.Errorf("build image %q: %w", spec.Name, err)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(folder, spec.Name+"-")
	if err != nil {
		return "", err
	}
	b := &builder{spec: spec, work: work}
	defer func() {
		// What root made only root removes, also after ctx is done.
		err = errors.Join(err, b.run(context.WithoutCancel(ctx), nil, "rm", "-rf", "--one-file-system", work))
	}()
	begun := time.Now()
	b.sayf("image %s: building from %s", spec.Name, spec.Suite)
	if err := b.build(ctx, sources, path); err != nil {
		return "", fmt.Errorf("build image %q: %w", spec.Name, err)
	}
	b.sayf("image %s: built in %.0f s", spec.Name, time.Since(begun).Seconds())
	return path, nil
}

// digest names what the image depends on, but for the archive's state.
func (s Spec) digest() string {
	text, err := json.Marshal(s)
	if err != nil { // a Spec is made of strings and numbers
		text = fmt.Append(nil, err)
	}
	sum := sha256.Sum256(fmt.Appendf(text, "recipe %d", recipe))
	return hex.EncodeToString(sum[:6])
}

// archive is a tar of the spec's files.
func (s Spec) archive() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range s.Files {
		name, absolute := strings.CutPrefix(f.Path, "/")
		if !absolute {
			return nil, fmt.Errorf("write file %q: path is not absolute", f.Path)
		}
		header := &tar.Header{
			Typeflag: tar.TypeReg, Name: name, Size: int64(len(f.Text)), Mode: int64(f.Mode.Perm()),
			Uname: "root", Gname: "root",
		}
		if err := errors.Join(w.WriteHeader(header), copyTo(w, f.Text)); err != nil {
			return nil, fmt.Errorf("write file %q: %w", f.Path, err)
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

func copyTo(w io.Writer, text string) error {
	_, err := io.WriteString(w, text)
	return err
}
