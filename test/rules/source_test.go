package rules

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// source is one Go file. Its path is relative to the repository's top.
type source struct {
	path  string
	files *token.FileSet
	file  *ast.File
}

func parse(path string, text any) (source, error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, text, parser.ParseComments|parser.SkipObjectResolution)
	return source{path, files, file}, err
}

func (s source) folder() string { return path.Dir(s.path) }

// under reports whether the file is in the folder or below it.
func (s source) under(folder string) bool { return within(s.path, folder) }

func within(name, folder string) bool {
	return name == folder || strings.HasPrefix(name, folder+"/")
}

func (s source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

func (s source) isGenerated() bool { return ast.IsGenerated(s.file) }

// finding is a breach of a rule.
type finding struct {
	where token.Position
	text  string
}

func (f finding) String() string { return fmt.Sprintf("%s: %s", f.where, f.text) }

func (s source) findf(node ast.Node, format string, args ...any) finding {
	return finding{s.files.Position(node.Pos()), fmt.Sprintf(format, args...)}
}

// imports returns the paths of the file's imports.
func (s source) imports() map[*ast.ImportSpec]string {
	paths := make(map[*ast.ImportSpec]string)
	for _, spec := range s.file.Imports {
		paths[spec], _ = strconv.Unquote(spec.Path.Value)
	}
	return paths
}

// qualified returns "import/path.Name" if expr names something of another
// package, "" otherwise.
func (s source) qualified(expr ast.Expr) string {
	selector, ok := expr.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	qualifier, ok := selector.X.(*ast.Ident)
	if !ok {
		return ""
	}
	for spec, imported := range s.imports() {
		name := path.Base(imported)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		if name == qualifier.Name {
			return imported + "." + selector.Sel.Name
		}
	}
	return ""
}

// top is the repository's top level as seen from a test of this package.
const top = "../.."

// tree reads all Go files of the repository.
func tree(t *testing.T) []source {
	t.Helper()
	var sources []source
	err := filepath.WalkDir(top, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(top, name)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if hidden(relative) || entry.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		read, err := parse(filepath.ToSlash(relative), text)
		sources = append(sources, read)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(sources) == 0 {
		t.Fatal("no source was found")
	}
	return sources
}

func hidden(name string) bool { return name != "." && strings.HasPrefix(name, ".") }
