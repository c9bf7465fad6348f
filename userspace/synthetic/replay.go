package synthetic

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxLost is how many damaged lines are remembered to be shown.
const maxLost = 64

// survey is what was found in a log besides names.
type survey struct {
	size int64 // up to the end of the last line
	torn int64 // bytes after that: of a write that a crash ended

	damaged int    // lines
	lost    []line // the first of these

	headless bool // there is no first line, or not a whole one
}

// line is a damaged line: all that is left of a name, perhaps.
type line struct {
	number int
	text   string
}

// whole reports whether the log has nothing but whole lines.
func (s *survey) whole() bool { return !s.headless && s.torn == 0 && s.damaged == 0 }

// replay reads a log, line by line, and calls found for each record. It returns
// ErrFormat if the log is of another version.
func replay(r io.Reader, found func(record)) (*survey, error) {
	s := &survey{headless: true}
	lines := bufio.NewReaderSize(r, maxLine)
	for number := 1; ; number++ {
		text, size, err := readLine(lines)
		switch {
		case errors.Is(err, io.EOF):
			s.torn = size
			return s, nil
		case err != nil:
			return nil, fmt.Errorf("read line %d: %w", number, err)
		}
		s.size += size
		if err := s.judge(number, text, found); err != nil {
			return nil, err
		}
	}
}

// judge tells what a line is. No record is lost with a damaged first line.
func (s *survey) judge(number int, text string, found func(record)) error {
	whole, ok := unsealed(text)
	if v, headline := strings.CutPrefix(whole, title); ok && headline && number == 1 {
		if s.headless = false; v != version {
			return fmt.Errorf("%w: %q", ErrFormat, v)
		}
		return nil
	}
	if rec, isRecord := parseRecord(whole); ok && isRecord {
		found(rec)
		return nil
	}
	if s.damaged++; len(s.lost) < maxLost {
		s.lost = append(s.lost, line{number, text})
	}
	return nil
}

// readLine returns a line without its end, and how many bytes there were. A
// line that is too long is cut short. The error is io.EOF for one without end.
func readLine(r *bufio.Reader) (text string, size int64, err error) {
	part, err := r.ReadSlice('\n')
	text, size = string(part), int64(len(part))
	for errors.Is(err, bufio.ErrBufferFull) {
		part, err = r.ReadSlice('\n')
		size += int64(len(part))
	}
	return strings.TrimSuffix(text, "\n"), size, err
}
