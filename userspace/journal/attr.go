package journal

import (
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// maxField is how long the journal lets a field's name be, in bytes.
const maxField = 64

// attr is an attribute with the groups that it is in.
type attr struct {
	path  []string
	value string
}

// flatten appends an attribute, or all of a group's, to attrs. What slog wants
// left out is left out: empty attributes, and groups of nothing.
func flatten(attrs []attr, groups []string, a slog.Attr) []attr {
	value := a.Value.Resolve()
	if a.Key == "" && value.Equal(slog.Value{}) {
		return attrs
	}
	path := groups
	if a.Key != "" || value.Kind() != slog.KindGroup {
		path = append(slices.Clip(groups), a.Key)
	}
	if value.Kind() != slog.KindGroup {
		return append(attrs, attr{path, text(value)})
	}
	for _, member := range value.Group() {
		attrs = flatten(attrs, path, member)
	}
	return attrs
}

// text is a value as people read it.
func text(v slog.Value) string {
	switch v.Kind() {
	case slog.KindTime:
		return v.Time().Format(time.RFC3339Nano)
	case slog.KindAny:
		if err, ok := v.Any().(error); ok {
			return fmt.Sprint(err) // %+v may be a verifier's whole log
		}
		return fmt.Sprintf("%+v", v.Any())
	}
	return v.String()
}

// message is what a record says without its fields.
func message(text string, attrs []attr) string {
	var b strings.Builder
	b.WriteString(text)
	for _, a := range attrs {
		fmt.Fprintf(&b, " %s=%s", quoted(strings.Join(a.path, ".")), quoted(a.value))
	}
	return b.String()
}

// quoted puts quotes where without them it would not be clear where a text ends.
func quoted(text string) string {
	unclear := func(r rune) bool { return r == ' ' || r == '"' || r == '=' || !unicode.IsPrint(r) }
	if text == "" || strings.ContainsFunc(text, unclear) {
		return strconv.Quote(text)
	}
	return text
}

// fieldsOf yields the journal's fields of attributes.
func fieldsOf(prefix string, attrs []attr) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, a := range attrs {
			if !yield(fieldName(prefix, a.path), a.value) {
				return
			}
		}
	}
}

// fieldName is the name of an attribute in the journal, which wants capitals,
// digits and underscores, beginning with a capital: systemd.journal-fields(7).
func fieldName(prefix string, path []string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, prefix+"_"+strings.Join(path, "_"))
	return name[:min(len(name), maxField)]
}
