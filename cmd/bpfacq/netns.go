package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/container"
)

// namespace is a network namespace that was asked about.
type namespace struct {
	inode uint64 // 0 is that of the host
	name  string // as people know it
}

// findNamespace reads what was typed for a network namespace: the number of a
// process, a path, or a name of ip-netns(8).
func (e *env) findNamespace(text string) (namespace, error) {
	if text == "" {
		return namespace{}, nil
	}
	path := filepath.Join(e.namespaces, text)
	if _, err := strconv.Atoi(text); err == nil {
		path = filepath.Join("/proc", text, "ns/net")
	} else if strings.Contains(text, "/") {
		path = text
	}
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return namespace{}, fmt.Errorf("find network namespace %q: %w", text, &os.PathError{Op: "stat", Path: path, Err: err})
	}
	name := container.New(container.Options{Namespaces: e.namespaces}).Namespace(stat.Ino)
	if name == "" {
		name = text
	}
	return namespace{stat.Ino, name}, nil
}

// knownNamespaces are the names of network namespaces, for completion.
func (e *env) knownNamespaces() []string {
	entries, err := os.ReadDir(e.namespaces)
	if err != nil {
		return nil
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	return names
}
