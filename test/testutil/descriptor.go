package testutil

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// openFiles counts the open descriptors of the process by what they refer to.
type openFiles map[string]int

// NoLeaks fails the test at its end if more descriptors are open than at the
// call. Call it first, so that it looks last. Parallel tests would see each
// other's descriptors.
func NoLeaks(t testing.TB) {
	t.Helper()
	before, err := descriptors()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := before.leaked(); err != nil {
			t.Error(err)
		}
	})
}

func descriptors() (openFiles, error) {
	const folder = "/proc/self/fd"
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("list descriptors: %w", err)
	}
	files := make(openFiles)
	for _, entry := range entries {
		file, err := os.Readlink(filepath.Join(folder, entry.Name()))
		switch {
		case errors.Is(err, os.ErrNotExist): // the one that listed the folder
		case err != nil:
			return nil, fmt.Errorf("read descriptor: %w", err)
		case file == "anon_inode:[eventpoll]", file == "anon_inode:[eventfd]": // the runtime's own poller
		default:
			files[file]++
		}
	}
	return files, nil
}

// leaked returns an error that names what is open now and was not at first.
func (before openFiles) leaked() error {
	now, err := descriptors()
	if err != nil {
		return err
	}
	var surplus []string
	for _, file := range slices.Sorted(maps.Keys(now)) {
		n := now[file] - before[file]
		// Package net keeps pipes for splice(2), both ends of them.
		spliced := n == 2 && strings.HasPrefix(file, "pipe:")
		if n > 0 && !spliced {
			surplus = append(surplus, fmt.Sprintf("%d × %s", n, file))
		}
	}
	if surplus == nil {
		return nil
	}
	return fmt.Errorf("leak descriptors: %s", strings.Join(surplus, ", "))
}
