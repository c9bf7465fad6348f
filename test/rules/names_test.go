package rules

import (
	"go/ast"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// vague reports whether a word says nothing about what it names.
func vague(word string) bool {
	return slices.Contains([]string{
		"common", "controller", "core", "data", "engine", "handler", "handlers", "helper", "helpers", "info",
		"manager", "misc", "service", "services", "types", "util", "utils",
	}, strings.ToLower(word))
}

// checkName judges one element of a path.
func checkName(name string) (word string, ok bool) {
	stem, _, _ := strings.Cut(name, ".")
	words := strings.FieldsFunc(stem, func(r rune) bool { return r == '_' || r == '-' })
	i := slices.IndexFunc(words, vague)
	if i < 0 {
		return "", true
	}
	return words[i], false
}

// checkTypeNames judges the noun that ends a type's name.
func checkTypeNames(s source) (found []finding) {
	if s.isTest() || s.isGenerated() {
		return nil
	}
	ast.Inspect(s.file, func(node ast.Node) bool {
		if spec, ok := node.(*ast.TypeSpec); ok {
			name := spec.Name.Name
			last := strings.LastIndexFunc(name, unicode.IsUpper)
			if noun := name[max(last, 0):]; vague(noun) {
				found = append(found, s.findf(spec, "type %s: %q names nothing", name, noun))
			}
		}
		return true
	})
	return found
}

func checkPackageName(s source) []finding {
	name := s.file.Name.Name
	if word, ok := checkName(strings.TrimSuffix(name, "_test")); !ok {
		return []finding{s.findf(s.file.Name, "package %s: %q names nothing", name, word)}
	}
	return nil
}

// checkTop judges the names at the repository's top level.
func checkTop(names []string) (surplus, missing []string) {
	allowed := []string{
		"ARCHITECTURE.md", "CHANGELOG.md", "LICENSE", "Makefile", "README.md",
		"bpf", "cmd", "go.mod", "go.sum", "loader", "maps", "test", "userspace",
	}
	for _, name := range names {
		if !slices.Contains(allowed, name) && !hidden(name) {
			surplus = append(surplus, name)
		}
	}
	for _, name := range allowed {
		if !slices.Contains(names, name) {
			missing = append(missing, name)
		}
	}
	return surplus, missing
}

func TestTopLevelIsAsAgreed(t *testing.T) {
	entries, err := filepath.Glob(filepath.Join(top, "*"))
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := os.ReadFile(filepath.Join(top, ".gitignore"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		name := filepath.Base(entry)
		if !slices.Contains(strings.Fields(string(ignored)), "/"+name) { // what go build leaves
			names = append(names, name)
		}
	}
	surplus, missing := checkTop(names)
	if len(surplus) > 0 || len(missing) > 0 {
		t.Errorf("surplus %q, missing %q", surplus, missing)
	}
}

func TestFilesAndFoldersAreNamedByNouns(t *testing.T) {
	err := filepath.WalkDir(top, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(top, name)
		if err != nil {
			return err
		}
		if hidden(relative) || entry.Name() == "testdata" {
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if word, ok := checkName(entry.Name()); !ok {
			t.Errorf("%s: %q names nothing", relative, word)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestVagueNamesAreFound(t *testing.T) {
	for _, name := range []string{
		"util", "common", "helper.go", "policy_types.go", "dns_helpers_linux.go", "core", "Manager.go", "flow-data.json",
	} {
		if _, ok := checkName(name); ok {
			t.Errorf("%q passes", path.Join("userspace", name))
		}
	}
	for _, name := range []string{"testutil", "testdata", "policy.go", "database.go", "score", "bpf_x86_bpfel.o"} {
		if word, ok := checkName(name); !ok {
			t.Errorf("%q is refused for %q", name, word)
		}
	}
}

func TestStrayTopLevelNamesAreFound(t *testing.T) {
	surplus, missing := checkTop([]string{"bpf", "internal", "docs", "main.go", ".github"})
	if want := []string{"internal", "docs", "main.go"}; !slices.Equal(surplus, want) {
		t.Errorf("surplus %q, want %q", surplus, want)
	}
	if slices.Contains(missing, "bpf") || !slices.Contains(missing, "LICENSE") {
		t.Errorf("missing %q", missing)
	}
}
