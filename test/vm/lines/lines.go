// Package lines cuts what programs write into whole lines.
package lines

import (
	"bytes"
	"io"
	"sync"
)

// Splitter is an io.Writer that passes on each whole line. A line that has no end
// yet waits for it.
type Splitter struct {
	// Take gets a line without its end, which it must not keep. Its error ends
	// the Write that completed the line.
	Take  func(line []byte) error
	begun []byte
}

// Write implements io.Writer.
func (s *Splitter) Write(p []byte) (int, error) {
	s.begun = append(s.begun, p...)
	for {
		line, rest, found := bytes.Cut(s.begun, []byte("\n"))
		if !found {
			return len(p), nil
		}
		s.begun = rest
		if err := s.Take(line); err != nil {
			return 0, err
		}
	}
}

// Output is where several write, and none cuts what another one has written at once,
// down to the end of its last line.
type Output struct {
	mu sync.Mutex
	to io.Writer
}

// NewOutput returns an Output that writes to one place.
func NewOutput(to io.Writer) *Output { return &Output{to: to} }

// Of returns the writer of one of them. Its lines begin with the prefix; what has
// no end yet waits for it.
func (o *Output) Of(prefix string) io.Writer { return &prefixed{output: o, prefix: prefix} }

type prefixed struct {
	output *Output
	prefix string
	begun  []byte
}

func (w *prefixed) Write(p []byte) (int, error) {
	w.begun = append(w.begun, p...)
	end := bytes.LastIndexByte(w.begun, '\n') + 1
	var text []byte
	for line := range bytes.Lines(w.begun[:end]) {
		text = append(append(text, w.prefix...), line...)
	}
	w.begun = append(w.begun[:0], w.begun[end:]...)
	w.output.mu.Lock()
	defer w.output.mu.Unlock()
	if _, err := w.output.to.Write(text); err != nil {
		return 0, err
	}
	return len(p), nil
}
