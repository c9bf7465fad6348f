package config

import (
	"fmt"
	"strings"
)

// Problem is one thing wrong with a configuration.
type Problem struct {
	File         string
	Line, Column int    // counted from 1, in bytes; 0 when it is the whole file
	Key          string // dotted, as TOML writes it; may be empty
	Text         string // the value and what was expected
}

// String returns "file:line:column: key: text" without the parts that the
// problem does not have.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	if p.Key != "" {
		b.WriteString(": " + p.Key)
	}
	return b.String() + ": " + p.Text
}

// Problems is everything wrong with a configuration, in the order of the file
// as far as one look can tell. It is never empty when it is an error.
type Problems []Problem

// Error returns one line for each problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// in names the file of every problem.
func (ps Problems) in(file string) Problems {
	for i := range ps {
		ps[i].File = file
	}
	return ps
}
