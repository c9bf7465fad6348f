package kernel

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// module is one that was asked for, or that another one needs.
type module struct {
	name  string
	image []byte
	needs []string
}

// reader reads the module in a file.
type reader func(path string) (module, error)

// modules are those of an unpacked kernel.
type modules struct {
	read  reader
	paths map[string]string // by name
	taken map[string]bool
	order []module // what is needed comes first
}

// inOrder returns the modules of a folder that are wanted, and those that they
// need, in the order of insertion. What the folder does not have is built in, or
// this kernel has none of it.
func inOrder(folder fs.FS, wanted []string, read reader) ([]module, error) {
	m := modules{read: read, paths: make(map[string]string), taken: make(map[string]bool)}
	err := fs.WalkDir(folder, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if stem, kind, _ := strings.Cut(entry.Name(), "."); kind == "ko" || strings.HasPrefix(kind, "ko.") {
			m.paths[canonical(stem)] = path
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find modules: %w", err)
	}
	for _, name := range wanted {
		if err := m.take(canonical(name)); err != nil {
			return nil, err
		}
	}
	return m.order, nil
}

// canonical is the name of a module, whose file may have dashes.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func (m *modules) take(name string) error {
	path, have := m.paths[name]
	if !have || m.taken[name] {
		return nil
	}
	m.taken[name] = true
	found, err := m.read(path)
	if err != nil {
		return fmt.Errorf("read module %s: %w", name, err)
	}
	for _, need := range found.needs {
		if err := m.take(canonical(need)); err != nil {
			return err
		}
	}
	found.name = name
	m.order = append(m.order, found)
	return nil
}

// readModule reads a file as the archive has it, compressed or not.
func readModule(ctx context.Context, path string) (module, error) {
	image, err := os.ReadFile(path)
	if err == nil && filepath.Ext(path) != ".ko" {
		image, err = decompress(ctx, image)
	}
	if err != nil {
		return module{}, err
	}
	needs, err := needed(image)
	return module{image: image, needs: needs}, err
}

// needed returns the names of the modules without which this one does not load.
func needed(image []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, errors.New("find modinfo: no such section")
	}
	text, err := section.Data()
	if err != nil {
		return nil, err
	}
	return parseNeeds(string(text)), nil
}

// parseNeeds reads what follows depends= in a module's strings.
func parseNeeds(modinfo string) []string {
	for field := range strings.SplitSeq(modinfo, "\x00") {
		if list, found := strings.CutPrefix(field, "depends="); found {
			return slices.DeleteFunc(strings.Split(list, ","), func(s string) bool { return s == "" })
		}
	}
	return nil
}
