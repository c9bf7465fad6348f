package profile

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"
)

const (
	maxReports = 100    // problems, and warnings, that are listed one by one
	maxOmitted = 10_000 // problems that are counted
	maxUnknown = 1000   // unknown fields that are kept
	maxQuoted  = 80     // bytes of foreign text that a message shows
)

// Problem is one place where a profile is wrong.
type Problem struct {
	// Pointer names the place (RFC 6901); it is empty for the whole document.
	Pointer string `json:"pointer"`
	// Value is what stands there: strings quoted, long ones cut, control
	// characters escaped.
	Value string `json:"value"`
	// Want is what was expected.
	Want string `json:"want"`
	// Line and Column start at 1; Column counts characters.
	Line   int `json:"line"`
	Column int `json:"column"`
	// Offset is in bytes from the start of the file.
	Offset int `json:"offset"`
}

// String returns the problem on one line.
func (p Problem) String() string {
	return fmt.Sprintf("%s: got %s, want %s (line %d, column %d)",
		cmp.Or(p.Pointer, "document"), p.Value, p.Want, p.Line, p.Column)
}

// Warning is a remark on a profile that can be used as it is.
type Warning struct {
	// Pointer names the place (RFC 6901); it is empty for the whole document.
	Pointer string `json:"pointer"`
	Text    string `json:"text"`
	// Line starts at 1; it is 0 for the whole document.
	Line int `json:"line"`
}

// String returns the warning on one line.
func (w Warning) String() string { return cmp.Or(w.Pointer, "document") + ": " + w.Text }

// InvalidError says why a profile was rejected.
type InvalidError struct {
	// Problems are in the order of the document, and never empty.
	Problems []Problem `json:"problems"`
	// Omitted is how many more were found than Problems lists. The search
	// ends when there are very many.
	Omitted int `json:"omitted"`
}

// Error returns the first problem on one line, and how many more there are.
func (e *InvalidError) Error() string {
	if len(e.Problems) == 0 {
		return "invalid profile"
	}
	text := e.Problems[0].String()
	if more := len(e.Problems) - 1 + e.Omitted; more > 0 {
		text += fmt.Sprintf(", and %d more", more)
	}
	return text
}

// report gathers what is wrong or odd in a document. Offsets are those of the
// document's text until the report is finished.
type report struct {
	problems []Problem
	omitted  int

	warnings []Warning
	places   []int // offset of each warning
	unlisted int   // warnings beyond maxReports

	unknown map[string]json.RawMessage
}

func (r *report) reject(offset int, pointer, value, want string) {
	if len(r.problems) == maxReports {
		r.omitted++
		return
	}
	r.problems = append(r.problems, Problem{Pointer: pointer, Value: value, Want: want, Offset: offset})
}

// hopeless reports whether there are so many problems that it is a waste of
// time to look for more.
func (r *report) hopeless() bool { return r.omitted >= maxOmitted }

func (r *report) warn(offset int, pointer, text string) {
	r.warnings = append(r.warnings, Warning{Pointer: pointer, Text: text})
	r.places = append(r.places, offset)
}

// invalid returns the problems in the order of the document as an
// *InvalidError, or nil if there are none. The text starts at the offset bom
// of the file.
func (r *report) invalid(text []byte, bom int) error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(r.problems, func(a, b Problem) int { return cmp.Compare(a.Offset, b.Offset) })
	at := lines{text: text}
	for i := range r.problems {
		p := &r.problems[i]
		p.Line, p.Column = at.position(p.Offset)
		p.Offset += bom
	}
	return &InvalidError{Problems: r.problems, Omitted: r.omitted}
}

// remarks returns the warnings in the order of the document.
func (r *report) remarks(text []byte) []Warning {
	order := make([]int, len(r.warnings))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(r.places[a], r.places[b]) })
	at := lines{text: text}
	var sorted []Warning
	for _, i := range order {
		w := r.warnings[i]
		w.Line, _ = at.position(r.places[i])
		sorted = append(sorted, w)
	}
	if r.unlisted > 0 {
		sorted = append(sorted, Warning{Text: fmt.Sprintf("%d more warnings are not listed", r.unlisted)})
	}
	return sorted
}

// lines turns ascending offsets into lines and columns in one pass.
type lines struct {
	text   []byte
	offset int // how far lines were counted
	count  int // line feeds before offset
	start  int // of the line that offset is in
}

func (l *lines) position(offset int) (line, column int) {
	passed := l.text[l.offset:offset]
	l.count += bytes.Count(passed, []byte{'\n'})
	if i := bytes.LastIndexByte(passed, '\n'); i >= 0 {
		l.start = l.offset + i + 1
	}
	l.offset = offset
	return l.count + 1, utf8.RuneCount(l.text[l.start:offset]) + 1
}

// quote makes foreign text safe and short enough to be shown.
func quote(s string) string {
	if len(s) <= maxQuoted {
		return strconv.Quote(s)
	}
	end := maxQuoted
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return strconv.Quote(s[:end]) + "…"
}
