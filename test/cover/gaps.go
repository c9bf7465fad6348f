package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// gap is a function or an error path that was not reached.
type gap struct {
	line int
	text string
}

// printGaps lists what was not reached, by file.
func (p profile) printGaps(w io.Writer) error {
	for _, name := range slices.Sorted(maps.Keys(p)) {
		source, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("read source: %w", err)
		}
		gaps, err := findGaps(name, source, p[name])
		if err != nil {
			return err
		}
		for i, g := range gaps {
			if i == 0 {
				fmt.Fprintf(w, "\n%s\n", name)
			}
			fmt.Fprintf(w, "%6d  %s\n", g.line, g.text)
		}
	}
	return nil
}

// findGaps finds the functions of a file that were never called, and in the
// others the branches on an error that were never taken.
func findGaps(name string, source []byte, pieces map[span]piece) ([]gap, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("parse source: %w", err)
	}
	lines := bytes.Split(source, []byte("\n"))
	var gaps []gap
	note := func(node ast.Node) {
		line := set.Position(node.Pos()).Line
		text := strings.TrimSuffix(string(bytes.TrimSpace(lines[line-1])), " {")
		if text == "if err != nil" { // which says nothing without the line before
			text = string(bytes.TrimSpace(lines[line-2])) + "; err != nil"
		}
		gaps = append(gaps, gap{line, text})
	}
	reached := func(node ast.Node) bool {
		return reaches(pieces, placeOf(set, node.Pos()), placeOf(set, node.End()))
	}
	for _, declaration := range file.Decls {
		function, ok := declaration.(*ast.FuncDecl)
		if !ok || function.Body == nil || len(function.Body.List) == 0 {
			continue
		}
		if !reached(function.Body) {
			note(function)
			continue
		}
		ast.Inspect(function.Body, func(node ast.Node) bool {
			branch, ok := node.(*ast.IfStmt)
			if ok && mentionsError(branch.Cond) && !reached(branch.Body) {
				note(branch)
				return false
			}
			return true
		})
	}
	return gaps, nil
}

func placeOf(set *token.FileSet, at token.Pos) place {
	position := set.Position(at)
	return place{position.Line, position.Column}
}

// reaches reports whether a piece between two places was reached.
func reaches(pieces map[span]piece, from, to place) bool {
	for s, piece := range pieces {
		if piece.reached && !s.start.before(from) && !to.before(s.end) {
			return true
		}
	}
	return false
}

// mentionsError reports whether a condition is about an error, by the names that
// errors have here.
func mentionsError(condition ast.Expr) (found bool) {
	ast.Inspect(condition, func(node ast.Node) bool {
		if name, ok := node.(*ast.Ident); ok {
			found = found || name.Name == "err" || name.Name == "errno" || strings.HasSuffix(name.Name, "Err")
		}
		return !found
	})
	return found
}
