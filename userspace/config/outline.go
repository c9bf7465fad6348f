package config

import (
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// The decoder takes keys without regard to case, puts an integer into a
// Duration and forgets where a value stood. So the document is walked once
// before: the outline answers these three.

const (
	wantDuration = `a duration such as "3s"`
	wantLevel    = `"debug", "info", "warn" or "error"`
)

// entry is one key of the document, with the kind of its value.
type entry struct {
	path         []string
	kind         unstable.Kind
	line, column int
}

// outline lists the keys of a document in order, up to its first syntax error
// (which the decoder then reports).
func outline(document []byte) []entry {
	var (
		p       unstable.Parser
		table   []string
		entries []entry
	)
	add := func(prefix []string, n *unstable.Node, kind unstable.Kind) []string {
		path, at := slices.Clone(prefix), unstable.Range{}
		for it := n.Key(); it.Next(); {
			if len(path) == len(prefix) {
				at = it.Node().Raw
			}
			path = append(path, string(it.Node().Data))
		}
		start := p.Shape(at).Start
		entries = append(entries, entry{path, kind, start.Line, start.Column})
		return path
	}
	var pair func(prefix []string, n *unstable.Node)
	pair = func(prefix []string, n *unstable.Node) {
		value := n.Value()
		path := add(prefix, n, value.Kind)
		if value.Kind != unstable.InlineTable {
			return
		}
		for it := value.Children(); it.Next(); {
			pair(path, it.Node())
		}
	}
	for p.Reset(document); p.NextExpression(); {
		switch n := p.Expression(); n.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = add(nil, n, n.Kind)
		case unstable.KeyValue:
			pair(table, n)
		}
	}
	return entries
}

// checkShape finds unknown keys and values of the wrong type.
func checkShape(entries []entry) Problems {
	var (
		problems Problems
		unknown  []string // a table: its keys are not reported one by one
	)
	for _, e := range entries {
		if unknown != nil && len(e.path) > len(unknown) && slices.Equal(e.path[:len(unknown)], unknown) {
			continue
		}
		p := Problem{Line: e.line, Column: e.column, Key: keyPath(e.path)}
		field, ok := fieldAt(e.path)
		switch {
		case !ok:
			unknown = e.path
			p.Text = "unknown key" + siblings(e.path)
		case !slices.Contains(wanted(field).kinds, e.kind):
			p.Text = fmt.Sprintf("%s, want %s", article(e.kind), wanted(field).words)
		default:
			continue
		}
		problems = append(problems, p)
	}
	return problems
}

// fieldAt descends from Config along the keys of a path.
func fieldAt(path []string) (reflect.Type, bool) {
	t := reflect.TypeFor[Config]()
	for _, key := range path {
		switch t.Kind() {
		case reflect.Struct:
			field, ok := fields(t)[key]
			if !ok {
				return nil, false
			}
			t = field.Type
		case reflect.Map:
			t = t.Elem()
		default:
			return nil, false
		}
	}
	return t, true
}

// fields returns a struct's fields by their keys.
func fields(t reflect.Type) map[string]reflect.StructField {
	byKey := make(map[string]reflect.StructField, t.NumField())
	for i := range t.NumField() {
		byKey[t.Field(i).Tag.Get("toml")] = t.Field(i)
	}
	return byKey
}

// siblings says which keys exist where an unknown one stands.
func siblings(path []string) string {
	for n := len(path) - 1; n >= 0; n-- {
		if t, ok := fieldAt(path[:n]); ok && t.Kind() == reflect.Struct {
			return ", want one of " + strings.Join(slices.Sorted(maps.Keys(fields(t))), ", ")
		}
	}
	return ""
}

// shape is what a field accepts.
type shape struct {
	kinds []unstable.Kind
	words string
}

func wanted(t reflect.Type) shape {
	switch {
	case t == reflect.TypeFor[Duration]():
		return shape{[]unstable.Kind{unstable.String}, wantDuration}
	case t == reflect.TypeFor[slog.Level]():
		return shape{[]unstable.Kind{unstable.String}, wantLevel}
	}
	switch t.Kind() {
	case reflect.Bool:
		return shape{[]unstable.Kind{unstable.Bool}, "true or false"}
	case reflect.Int:
		return shape{[]unstable.Kind{unstable.Integer}, "a whole number"}
	case reflect.Slice:
		return shape{[]unstable.Kind{unstable.Array}, "a list of strings"}
	case reflect.Struct, reflect.Map:
		return shape{[]unstable.Kind{unstable.Table, unstable.InlineTable}, "a table"}
	}
	return shape{[]unstable.Kind{unstable.String}, "a string"}
}

// article names a kind of value in a sentence.
func article(k unstable.Kind) string {
	switch k {
	case unstable.Integer:
		return "an integer"
	case unstable.Array:
		return "a list"
	case unstable.ArrayTable:
		return "a list of tables"
	case unstable.InlineTable:
		return "a table"
	}
	return "a " + strings.ToLower(k.String())
}

// keyPath writes a path as TOML does: parts that are not bare keys are quoted.
func keyPath(path []string) string {
	parts := make([]string, len(path))
	for i, part := range path {
		parts[i] = part
		if part == "" || strings.ContainsFunc(part, notBare) {
			parts[i] = strconv.Quote(part)
		}
	}
	return strings.Join(parts, ".")
}

func notBare(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_':
		return false
	}
	return true
}
