package relay

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

var (
	errTestReset  = errors.New("stream reset by edge")
	errTestClosed = errors.New("stream is closed")
)

// pipeLimit is how many bytes a pipe holds before its writer waits.
const pipeLimit = 64 << 10

// pipe is one direction of a fake stream: a bounded buffer.
type pipe struct {
	mu   sync.Mutex
	cond sync.Cond
	buf  bytes.Buffer
	fin  bool  // no more is written
	err  error // of reads once the buffer is empty, and of writes at once
}

func newPipe() *pipe {
	p := new(pipe)
	p.cond.L = &p.mu
	return p
}

func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.buf.Len() == 0 && p.err == nil && !p.fin {
		p.cond.Wait()
	}
	switch {
	case p.buf.Len() > 0:
		p.cond.Broadcast()
		return p.buf.Read(b)
	case p.err != nil:
		return 0, p.err
	}
	return 0, io.EOF
}

func (p *pipe) Write(b []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(b) > 0 {
		for p.buf.Len() >= pipeLimit && p.err == nil && !p.fin {
			p.cond.Wait()
		}
		switch {
		case p.err != nil:
			return n, p.err
		case p.fin:
			return n, errTestClosed
		}
		part := b[:min(len(b), pipeLimit-p.buf.Len())]
		p.buf.Write(part)
		n, b = n+len(part), b[len(part):]
		p.cond.Broadcast()
	}
	return n, nil
}

func (p *pipe) queued() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.buf.Len()
}

func (p *pipe) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fin = true
	p.cond.Broadcast()
}

// fail ends the pipe with err; drop also forgets what is unread.
func (p *pipe) fail(err error, drop bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil && err != nil {
		p.err = err
	}
	if drop {
		p.buf.Reset()
	}
	p.cond.Broadcast()
}

// testStream is a Stream in memory; edge is its far end.
type testStream struct {
	toEdge, toApplication *pipe
	resets, closes        atomic.Int32
	reset                 chan struct{} // closed at the first Reset
}

func newTestStream() *testStream {
	return &testStream{toEdge: newPipe(), toApplication: newPipe(), reset: make(chan struct{})}
}

func (s *testStream) Read(b []byte) (int, error)  { return s.toApplication.Read(b) }
func (s *testStream) Write(b []byte) (int, error) { return s.toEdge.Write(b) }

func (s *testStream) CloseWrite() error {
	s.toEdge.finish()
	return nil
}

func (s *testStream) Reset() error {
	if s.resets.Add(1) == 1 {
		close(s.reset)
	}
	s.toEdge.fail(errTestReset, true)
	s.toApplication.fail(errTestClosed, true)
	return nil
}

func (s *testStream) Close() error {
	s.closes.Add(1)
	return nil
}

// edge is what a test does at the far end of a testStream.
type edge struct{ s *testStream }

func (e edge) Read(b []byte) (int, error)  { return e.s.toEdge.Read(b) }
func (e edge) Write(b []byte) (int, error) { return e.s.toApplication.Write(b) }
func (e edge) closeWrite()                 { e.s.toApplication.finish() }

func (e edge) reset() {
	e.s.toEdge.fail(errTestReset, true)
	e.s.toApplication.fail(errTestReset, false)
}

// deafen makes the stream's writes fail, and leaves its reads.
func (e edge) deafen() { e.s.toEdge.fail(errTestReset, true) }

// writingStream is a testStream that writes to the application by itself.
type writingStream struct {
	*testStream
	wroteTo atomic.Int32
}

func (s *writingStream) WriteTo(w io.Writer) (int64, error) {
	s.wroteTo.Add(1)
	return io.Copy(w, struct{ io.Reader }{s.testStream})
}
