package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"text/tabwriter"
)

const module = "github.com/bpfacq/bpfacq/"

// place is a line and a column, from 1.
type place struct{ line, column int }

func (p place) before(q place) bool {
	return p.line < q.line || p.line == q.line && p.column < q.column
}

// span is a piece of a file that runs as a whole.
type span struct{ start, end place }

// piece is what is known of a span.
type piece struct {
	statements int
	reached    bool
}

// profile has the pieces of each file, by its path from the repository's top.
type profile map[string]map[span]piece

func (p profile) read(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read profile: %w", err)
	}
	defer file.Close()
	return p.add(file)
}

// add reads lines of the form "path:line.column,line.column statements count",
// after a first one of another form.
func (p profile) add(text io.Reader) error {
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "mode: ") {
			continue
		}
		name, rest, _ := strings.Cut(lines.Text(), ":")
		var s span
		var statements, count int
		_, err := fmt.Sscanf(rest, "%d.%d,%d.%d %d %d",
			&s.start.line, &s.start.column, &s.end.line, &s.end.column, &statements, &count)
		if err != nil {
			return fmt.Errorf("parse %q: %w", lines.Text(), err)
		}
		name = strings.TrimPrefix(name, module)
		if p[name] == nil {
			p[name] = make(map[span]piece)
		}
		p[name][s] = piece{statements, p[name][s].reached || count > 0}
	}
	return lines.Err()
}

// share is how much of something is reached.
type share struct{ reached, statements int }

func (s *share) count(p piece) {
	s.statements += p.statements
	if p.reached {
		s.reached += p.statements
	}
}

func (s share) String() string {
	return fmt.Sprintf("%5.1f %%", 100*float64(s.reached)/float64(max(1, s.statements)))
}

// printTable shows how much of each package is reached.
func (p profile) printTable(w io.Writer) {
	packages, total := make(map[string]*share), new(share)
	for name, pieces := range p {
		folder := path.Dir(name)
		if packages[folder] == nil {
			packages[folder] = new(share)
		}
		for _, piece := range pieces {
			packages[folder].count(piece)
			total.count(piece)
		}
	}
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "PACKAGE\tREACHED\tSTATEMENTS")
	for _, folder := range slices.Sorted(maps.Keys(packages)) {
		fmt.Fprintf(out, "%s\t%v\t%d\n", folder, packages[folder], packages[folder].statements)
	}
	fmt.Fprintf(out, "all\t%v\t%d\n", total, total.statements)
	out.Flush()
}
