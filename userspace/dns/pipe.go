package dns

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/netip"
	"sync"
	"time"
)

const (
	pipeIdle    = 20 * time.Second // servers close after 10 s to minutes: RFC 7766, section 6.2.3
	pipePending = 4096             // queries on one connection
)

// Errors of connections to servers behind channels.
var (
	errPipeEnded = errors.New("connection to the server has ended")
	errPipeFull  = errors.New("too many queries wait for the server")
	errPipes     = errors.New("too many servers behind channels")
)

// pipe is a connection to a server behind a channel. It carries the queries of
// many clients, each under a number of its own.
type pipe struct {
	server netip.AddrPort
	out    chan []byte   // framed queries
	closed chan struct{} // when no answer comes any more

	mu      sync.Mutex
	waiting map[uint16]*awaited
	next    uint16
	heard   time.Time // of the last answer
	used    bool      // it has answered
	retired bool      // it takes no more queries
	ended   bool
	err     error // why, once ended
	stream  io.Closer
	idle    *time.Timer
}

// awaited is a query on a pipe.
type awaited struct {
	query  []byte
	answer chan []byte // with room for one
}

// pipes are the connections by server.
type pipes struct {
	mu   sync.Mutex
	open map[netip.AddrPort]*pipe
}

// askPipe asks a server behind a channel. A connection that the server ended
// while nothing was under way says nothing about the server, so another is
// tried then.
func (s *Server) askPipe(ctx context.Context, server netip.AddrPort, query []byte) ([]byte, error) {
	for {
		p, err := s.pipe(server)
		if err != nil {
			return nil, err
		}
		answer, again, err := p.ask(ctx, query)
		if err == nil || !again {
			return answer, err
		}
		s.pipes.drop(p)
	}
}

// pipe returns the connection to a server, and opens it if there is none.
func (s *Server) pipe(server netip.AddrPort) (*pipe, error) {
	s.pipes.mu.Lock()
	defer s.pipes.mu.Unlock()
	if p, ok := s.pipes.open[server]; ok {
		return p, nil
	}
	if len(s.pipes.open) >= s.limits.Pipes && !s.pipes.makeRoom() {
		return nil, errPipes
	}
	p := &pipe{
		server: server, out: make(chan []byte, 16), closed: make(chan struct{}),
		waiting: make(map[uint16]*awaited), heard: time.Now(),
	}
	if !s.spawn(func() { s.run(p) }) {
		return nil, context.Canceled
	}
	if s.pipes.open == nil {
		s.pipes.open = make(map[netip.AddrPort]*pipe)
	}
	s.pipes.open[server] = p
	return p, nil
}

// makeRoom lets go of a connection that nobody waits for. The caller holds the
// lock.
func (ps *pipes) makeRoom() bool {
	for server, p := range ps.open {
		if p.retire(true) {
			delete(ps.open, server)
			return true
		}
	}
	return false
}

// drop forgets a connection, if it is not yet replaced.
func (ps *pipes) drop(p *pipe) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.open[p.server] == p {
		delete(ps.open, p.server)
	}
}

// flush lets go of all connections.
func (ps *pipes) flush() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range ps.open {
		p.retire(false)
	}
	ps.open = nil
}

// run opens the connection and reads its answers until it ends.
func (s *Server) run(p *pipe) {
	ctx, cancel := context.WithTimeout(s.life, s.limits.Timeout)
	stream, err := s.upstream.Tunnel(ctx, p.server)
	cancel()
	if err == nil {
		var writer sync.WaitGroup
		stop := context.AfterFunc(s.life, func() { stream.Close() })
		if p.opened(stream) {
			writer.Go(func() { p.write(stream) })
			err = s.read(p, stream)
		}
		stream.Close()
		p.end(err)
		stop()
		writer.Wait()
	}
	p.end(err)
	s.pipes.drop(p)
}

// opened notes the stream, unless the pipe was retired meanwhile and nobody
// waits for it.
func (p *pipe) opened(stream io.Closer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stream = stream
	p.idle = time.AfterFunc(pipeIdle, func() { p.retire(true) })
	return !p.retired || len(p.waiting) > 0
}

func (p *pipe) write(stream io.WriteCloser) {
	for {
		select {
		case frame := <-p.out:
			if _, err := stream.Write(frame); err != nil {
				stream.Close() // which ends read, and that all
				return
			}
		case <-p.closed:
			return
		}
	}
}

func (s *Server) read(p *pipe, stream io.Reader) error {
	buffered := bufio.NewReader(stream)
	for {
		answer, err := readFramed(buffered)
		if err != nil {
			return err
		}
		if !p.deliver(answer) {
			s.counters.count(OutcomeStray)
		}
	}
}

// deliver gives an answer to who waits for it.
func (p *pipe) deliver(answer []byte) bool {
	if len(answer) < headerSize {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard, p.used = time.Now(), true
	number := word(answer)
	w, ok := p.waiting[number]
	if !ok {
		return false
	}
	copy(answer, w.query[:2])
	if !answers(answer, w.query) {
		return false
	}
	w.answer <- answer
	p.forget(number)
	return true
}

// ask sends a query and waits for its answer. again says that the failure is
// the connection's only.
func (p *pipe) ask(ctx context.Context, query []byte) (answer []byte, again bool, err error) {
	w := &awaited{query: query, answer: make(chan []byte, 1)}
	number, used, again, err := p.register(w)
	if err != nil {
		return nil, again, err
	}
	frame := framed(query)
	setWord(frame[2:], int(number))
	sent := time.Now()
	select {
	case p.out <- frame:
	case <-p.closed:
	case <-ctx.Done():
	}
	select {
	case answer := <-w.answer:
		return answer, false, nil
	case <-p.closed:
		select {
		case answer := <-w.answer:
			return answer, false, nil
		default:
		}
		return nil, used && errors.Is(p.err, io.EOF), errors.Join(errPipeEnded, p.err)
	case <-ctx.Done():
	}
	p.abandon(number, w, sent)
	return nil, false, ctx.Err()
}

// register gives a query its number. again says that another connection is to
// be tried.
func (p *pipe) register(w *awaited) (number uint16, used, again bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ended || p.retired:
		return 0, false, true, errPipeEnded
	case len(p.waiting) >= pipePending:
		return 0, false, false, errPipeFull
	}
	for p.waiting[p.next] != nil {
		p.next++
	}
	number = p.next
	p.next++
	p.waiting[number] = w
	if p.idle != nil {
		p.idle.Stop()
	}
	return number, p.used, false, nil
}

// abandon ends the wait of a query that got no answer in time. A connection
// from which nothing at all has come since is not used any more.
func (p *pipe) abandon(number uint16, w *awaited, sent time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.heard.Before(sent) {
		p.retired = true
	}
	if p.waiting[number] == w {
		p.forget(number)
	}
}

// forget ends the wait for a number. The caller holds the lock.
func (p *pipe) forget(number uint16) {
	delete(p.waiting, number)
	if len(p.waiting) > 0 {
		return
	}
	switch {
	case p.retired && p.stream != nil:
		p.stream.Close()
	case p.idle != nil:
		p.idle.Reset(pipeIdle)
	}
}

// retire has the pipe take no more queries, and closes it when none waits.
// ifIdle leaves it alone while one does. It reports whether it is retired.
func (p *pipe) retire(ifIdle bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) > 0 {
		p.retired = p.retired || !ifIdle
		return p.retired
	}
	p.retired = true
	if p.stream != nil {
		p.stream.Close()
	}
	return true
}

// end tells all who wait that nothing comes any more. Only the first call counts.
func (p *pipe) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	p.ended, p.err = true, err
	if p.idle != nil {
		p.idle.Stop()
	}
	close(p.closed)
}
