package profile

import (
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

const (
	maxDepth  = 16   // levels of nesting; the vendor's format has 8
	maxFields = 5000 // in one object; the vendor's have 8
	maxName   = 128  // bytes in the name of a field
)

// node is one JSON value and its place in the document. What is below it is
// found when a reader asks for it: a tree of a million ranges would be many
// times as large as its text.
//
// A nil node stands for a field that is absent; readers return zero for it.
type node struct {
	doc        *document
	up         *node  // nil at the root
	name       string // of the field, if up is an object
	index      int    // of the element, if up is an array
	start, end int    // the value without the space around it, in doc.text
}

func (n *node) raw() []byte { return n.doc.text[n.start:n.end] }

// kind returns the first byte of the value, which tells its JSON type: one of
// {, [, ", t, f, n, or that of a number.
func (n *node) kind() byte { return n.doc.text[n.start] }

func (n *node) isNull() bool { return n.kind() == 'n' }

// pointer returns the node's place as RFC 6901 writes it.
func (n *node) pointer() string {
	switch {
	case n.up == nil:
		return ""
	case n.up.kind() == '[':
		return n.up.pointer() + "/" + strconv.Itoa(n.index)
	}
	return n.up.pointer() + "/" + escape(n.name)
}

func escape(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
}

func (n *node) depth() int {
	depth := 0
	for ; n.up != nil; n = n.up {
		depth++
	}
	return depth
}

// shown returns the value as a message shows it.
func (n *node) shown() string {
	switch n.kind() {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return quote(unquote(n.raw()))
	}
	raw := string(n.raw())
	if len(raw) > maxQuoted {
		return raw[:maxQuoted] + "…"
	}
	return raw
}

// reject reports that the value is not what was wanted.
func (n *node) reject(want string) { n.rejectAs(n.shown(), want) }

// rejectAs is reject for a value that is not shown as it stands.
func (n *node) rejectAs(value, want string) { n.doc.reject(n.start, n.pointer(), value, want) }

// warn reports something odd. A valid profile can hold millions of such
// places, so beyond the first ones they are only counted.
func (n *node) warn(format string, args ...any) {
	if len(n.doc.warnings) == maxReports {
		n.doc.unlisted++
		return
	}
	n.doc.warn(n.start, n.pointer(), fmt.Sprintf(format, args...))
}

// items yields the elements of a list. Null is an empty list, as .NET writes
// lists that were never filled.
func (n *node) items() iter.Seq[*node] {
	return func(yield func(*node) bool) {
		if n == nil || n.isNull() {
			return
		}
		if n.kind() != '[' {
			n.reject("a list")
			return
		}
		text := n.doc.text
		i := skipSpace(text, n.start+1)
		for index := 0; text[i] != ']' && !n.doc.hopeless(); index++ {
			item := &node{doc: n.doc, up: n, index: index, start: i, end: valueEnd(text, i)}
			if !yield(item) {
				return
			}
			i = skipComma(text, item.end)
		}
	}
}

// fields returns the fields of an object, sorted by name. It reports names
// that occur twice, and those that cannot be shown, which it leaves out.
func (n *node) fields() []node {
	text := n.doc.text
	fields := make([]node, 0, 4)
	for i := skipSpace(text, n.start+1); text[i] != '}' && !n.doc.hopeless(); {
		if len(fields) == maxFields {
			n.reject(fmt.Sprintf("at most %d fields", maxFields))
			break
		}
		colon := stringEnd(text, i)
		field := node{doc: n.doc, up: n, name: unquote(text[i:colon])}
		field.start = skipSpace(text, skipSpace(text, colon)+1)
		field.end = valueEnd(text, field.start)
		i = skipComma(text, field.end)
		if !isFieldName(field.name) {
			n.rejectAs("a field named "+quote(field.name), fmt.Sprintf("names of 1 to %d printable bytes", maxName))
			continue
		}
		fields = append(fields, field)
	}
	slices.SortStableFunc(fields, func(a, b node) int { return cmp.Compare(a.name, b.name) })
	for i := 1; i < len(fields); i++ {
		if field := &fields[i]; field.name == fields[i-1].name {
			field.reject("one field of this name")
		}
	}
	return fields
}

func isFieldName(s string) bool {
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, isUnprintable)
}

func isUnprintable(r rune) bool { return !unicode.IsPrint(r) }

// object is a JSON object of which some fields are known.
type object struct {
	at     *node
	fields []node // sorted by name
}

// object reads an object whose known fields are named. It reports the others
// as unknown and keeps them. It returns false if there is no object.
func (n *node) object(known ...string) (object, bool) {
	if n == nil {
		return object{}, false
	}
	if n.kind() != '{' {
		n.reject("an object")
		return object{}, false
	}
	o := object{at: n, fields: n.fields()}
	for i := range o.fields {
		if field := &o.fields[i]; !slices.Contains(known, field.name) {
			field.keepUnknown(known)
		}
	}
	return o, true
}

// optional returns a field, or nil if it is absent or null.
func (o object) optional(name string) *node {
	if field := o.find(name); field != nil && !field.isNull() {
		return field
	}
	return nil
}

// required returns a field. If it is absent, required reports it and returns
// nil. A null is returned: the field's reader says what it should have been.
func (o object) required(name string) *node {
	field := o.find(name)
	if field == nil {
		o.at.doc.reject(o.at.start, o.at.pointer()+"/"+escape(name), "nothing", "this field, which is required")
	}
	return field
}

// find returns a field, or nil if it is absent.
func (o object) find(name string) *node {
	i, ok := slices.BinarySearchFunc(o.fields, name, func(n node, name string) int { return cmp.Compare(n.name, name) })
	if !ok {
		return nil
	}
	return &o.fields[i]
}

// keepUnknown keeps a field that nothing reads, and warns about it.
func (n *node) keepUnknown(known []string) {
	n.inspect()
	hint := ""
	if i := slices.IndexFunc(known, func(name string) bool { return strings.EqualFold(name, n.name) }); i >= 0 {
		hint = fmt.Sprintf("; the name %q differs only in case", known[i])
	}
	n.warn("unknown field, kept but not used%s", hint)
	if len(n.doc.unknown) == maxUnknown {
		return
	}
	if n.doc.unknown == nil {
		n.doc.unknown = make(map[string]json.RawMessage)
	}
	n.doc.unknown[n.pointer()] = slices.Clone(n.raw())
}

// inspect checks names and nesting of a value that no reader looks into.
func (n *node) inspect() {
	kind := n.kind()
	if kind != '{' && kind != '[' {
		return
	}
	if n.depth() >= maxDepth {
		n.reject(fmt.Sprintf("at most %d levels of nesting", maxDepth))
		return
	}
	if kind == '[' {
		for item := range n.items() {
			item.inspect()
		}
		return
	}
	for _, field := range n.fields() {
		field.inspect()
	}
}
