package matrix

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
)

// unpack puts the files of an archive below a folder.
func unpack(archive, folder string) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	for r := tar.NewReader(file); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read what the tests changed: %w", err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("read what the tests changed: %w", err)
		}
		if err := root.MkdirAll(path.Dir(header.Name), 0o755); err != nil {
			return err
		}
		if err := root.WriteFile(header.Name, content, 0o644); err != nil {
			return err
		}
	}
}
