package matrix

import (
	"bytes"
	"io"
	"sync"
)

// output is where several machines write whole lines.
type output struct {
	mu       sync.Mutex
	to       io.Writer
	prefixed bool // by the kernel
}

// of returns the writer of a kernel.
func (o *output) of(series string) io.Writer { return &lines{output: o, series: series} }

// lines passes on whole lines only.
type lines struct {
	output *output
	series string
	begun  []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.begun = append(l.begun, p...)
	end := bytes.LastIndexByte(l.begun, '\n') + 1
	var text []byte
	for line := range bytes.Lines(l.begun[:end]) {
		if l.output.prefixed {
			text = append(append(text, l.series...), '\t')
		}
		text = append(text, line...)
	}
	l.begun = append(l.begun[:0], l.begun[end:]...)
	l.output.mu.Lock()
	defer l.output.mu.Unlock()
	if _, err := l.output.to.Write(text); err != nil {
		return 0, err
	}
	return len(p), nil
}
