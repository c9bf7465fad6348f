package systemd

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// parts are the paths of what a test brings into the guest beside kernel and
// image.
type parts struct {
	deb    string // the package under test
	readme string // the page that says how it is installed
	test   string // the test binary of package host
	guest  string // the program that ends the machine
}

// write writes the parts and kernel modules as a tar of the guest's root.
func (p parts) write(to io.Writer, modules []string) error {
	w := tar.NewWriter(to)
	// Go says what hangs before the machine is ended.
	environment := fmt.Sprintf("export CI=true TIMEOUT=%v\n", timeout*3/4)
	header := &tar.Header{Name: "src/environment", Mode: 0o644, Size: int64(len(environment))}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	if _, err := io.WriteString(w, environment); err != nil {
		return err
	}
	type member struct {
		folder, path string
		mode         int64
		name         string // by which it is found there
	}
	members := []member{
		{"src/test/host", p.test, 0o755, filepath.Base(p.test)},
		{"src", p.guest, 0o755, filepath.Base(p.guest)},
		{"src", p.readme, 0o644, filepath.Base(p.readme)},
		{"root/download", p.deb, 0o644, filepath.Base(p.deb)},
	}
	for _, module := range modules {
		// The kernel asks for modules by name, which is the file's behind its place in the order.
		_, name, _ := strings.Cut(filepath.Base(module), "-")
		members = append(members, member{"src/modules", module, 0o644, name})
	}
	for _, m := range members {
		if err := addFile(w, filepath.Join(m.folder, m.name), m.path, m.mode); err != nil {
			return fmt.Errorf("pack %s: %w", m.path, err)
		}
	}
	return w.Close()
}

func addFile(w *tar.Writer, name, path string, mode int64) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	status, err := file.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Size: status.Size(), Mode: mode}); err != nil {
		return err
	}
	_, err = io.Copy(w, file)
	return err
}
