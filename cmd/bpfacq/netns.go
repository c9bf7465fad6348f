package main

import (
	"errors"
	"fmt"
	"io/fs"
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
	inode, err := namespaceInode(path)
	if err != nil {
		err = fmt.Errorf("find network namespace %q: %w", text, err)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNoNamespace) {
			err = &adviceError{err, "name one that ip netns lists, or a process in it by its number"}
		}
		return namespace{}, err
	}
	name := container.New(container.Options{Namespaces: e.namespaces}).Namespace(inode)
	if name == "" {
		name = text
	}
	return namespace{inode, name}, nil
}

var errNoNamespace = errors.New("no network namespace")

// namespaceInode is the number of the network namespace that a file holds.
func namespaceInode(path string) (uint64, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return 0, &os.PathError{Op: "look at", Path: path, Err: errNoNamespace}
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return stat.Ino, nil
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
