package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// files are those below a folder, each by its path there, with what tells of a
// change.
type files map[string]state

type state struct {
	size     int64
	modified time.Time
}

func survey(folder string) (files, error) {
	found := make(files)
	err := fs.WalkDir(os.DirFS(folder), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		found[path] = state{info.Size(), info.ModTime()}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list files: %w", err)
	}
	return found, nil
}

// giveBack writes an archive of the files that are new or changed.
func (before files) giveBack(folder, device string) (err error) {
	now, err := survey(folder)
	if err != nil {
		return err
	}
	disk, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.Sync(), disk.Close()) }()
	archive := tar.NewWriter(disk)
	for path, is := range now {
		if was, known := before[path]; known && was.size == is.size && was.modified.Equal(is.modified) {
			continue
		}
		content, err := os.ReadFile(filepath.Join(folder, path))
		if err != nil {
			return err
		}
		header := tar.Header{Typeflag: tar.TypeReg, Name: path, Size: int64(len(content)), Mode: 0o644}
		if err := archive.WriteHeader(&header); err != nil {
			return fmt.Errorf("give back %s: %w", path, err)
		}
		if _, err := archive.Write(content); err != nil {
			return fmt.Errorf("give back %s: %w", path, err)
		}
	}
	return archive.Close()
}
