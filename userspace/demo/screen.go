package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// The looks of text on a terminal.
const (
	bold  = "\x1b[1m"
	faint = "\x1b[2m"
	plain = "\x1b[m"
)

// screen is what the demo is shown on. The first error in writing is kept, and
// the rest is not written.
type screen struct {
	out     io.Writer
	colours bool
	width   int // of a line; 0 is not known
	err     error
}

func newScreen(out io.Writer) *screen {
	s := &screen{out: out}
	file, ok := out.(*os.File)
	if !ok {
		return s
	}
	if size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ); err == nil {
		s.width = int(size.Col)
		s.colours = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	return s
}

func (s *screen) line(look, text string) {
	if s.colours && look != "" {
		text = look + text + plain
	}
	if s.err == nil {
		_, s.err = fmt.Fprintln(s.out, text)
	}
}

// text shows plain lines.
func (s *screen) text(text string) { s.line("", text) }

// comment says what the next command shows.
func (s *screen) comment(text string) {
	s.line("", "")
	s.line(faint, "# "+text)
}

// command shows a command line as it was typed at a station.
func (s *screen) command(at station, line string) { s.line(bold, at.name+"$ "+line) }

// output shows what a command wrote.
func (s *screen) output(text string) {
	for line := range strings.Lines(text) {
		s.line("", strings.TrimRightFunc(line, unicode.IsSpace))
	}
}

// cut shortens the lines of a table that are wider than the terminal.
func (s *screen) cut(text string) string {
	if s.width == 0 {
		return text
	}
	var short strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimRightFunc(line, unicode.IsSpace)
		if utf8.RuneCountInString(line) > s.width {
			line = string([]rune(line)[:s.width-1]) + "…"
		}
		short.WriteString(line + "\n")
	}
	return short.String()
}

// table shows rows in aligned columns.
func (s *screen) table(rows [][]string) {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, cells := range rows {
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	w.Flush()
	s.output(text.String())
}

// shellLine writes a command line as a shell reads it.
func shellLine(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = quote(word)
	}
	return strings.Join(quoted, " ")
}

func quote(word string) string {
	special := func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_./:,=%+@", r)
	}
	if word != "" && !strings.ContainsFunc(word, special) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
