package tunnel

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

const (
	// maxConnections bounds a pool whose edge allows few streams each.
	maxConnections = 256

	// maxDials bounds the handshakes that are done at a time for connections
	// that streams share. HTTP/1.1 does one for each stream, bounded by
	// maxHandshakes.
	maxDials      = 4
	maxHandshakes = 64

	// dialPause keeps the pool from dialing for mere comfort after that has
	// failed, since an edge may limit the connections of a client.
	dialPause = 5 * time.Second
)

// pool spreads streams over connections. What an edge speaks decides what it
// hands out: a shared HTTP/2 connection, or an HTTP/1.1 link of one's own.
//
// Locks: an h2Conn may call the pool with its own lock held. Under the pool's
// lock, therefore, only the atomics of a connection are used.
type pool struct {
	dialer     *dialer
	chunks     chunkPool
	size       int // connections that are kept
	keepAlive  time.Duration
	log        *slog.Logger
	announced  func(alternatives []string, edge net.Addr) // Alt-Svc of an answer
	handshakes chan struct{}                              // a semaphore of maxHandshakes

	ctx    context.Context // of dials; ends with close
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu       sync.Mutex
	queue    queue // callers of acquire who wait
	closed   bool
	http1    bool // what the last handshake chose
	conns    []*h2Conn
	spare    []*link // HTTP/1.1 links that the pool dialed for the waiting
	dialing  int
	failures int
	failure  error // the last one
	resume   time.Time
}

func newPool(d *dialer, o Options, announced func([]string, net.Addr)) *pool {
	ctx, cancel := context.WithCancel(context.Background())
	return &pool{
		dialer:     d,
		size:       o.Connections,
		keepAlive:  o.KeepAlive,
		log:        o.Log.With(slog.String("edge", o.Address)),
		handshakes: make(chan struct{}, maxHandshakes),
		announced:  announced,
		ctx:        ctx,
		cancel:     cancel,
		http1:      !o.Secure,
	}
}

// acquire returns an HTTP/2 connection with a stream promised on it, or an
// HTTP/1.1 link. It does not return shunned. Its error is a *StageError.
func (p *pool) acquire(ctx context.Context, shunned *h2Conn) (*h2Conn, *link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	patience := -1 // failures of the dials waited for, after which to give up
	for {
		if p.closed {
			return nil, nil, &StageError{StageDial, net.ErrClosed}
		}
		if l := p.takeSpare(); l != nil {
			return nil, l, nil
		}
		if c := p.pick(shunned); c != nil {
			return c, nil, nil
		}
		if patience >= 0 && p.failures >= patience {
			return nil, nil, p.failure
		}
		if p.http1 {
			if l, err := p.dialHTTP1(ctx); l != nil || err != nil {
				return nil, l, err
			}
			continue
		}
		p.dialFor(len(p.queue.sleepers) + 1)
		if patience < 0 {
			patience = p.failures + max(1, p.dialing)
		}
		if err := p.queue.wait(ctx, &p.mu); err != nil {
			p.closeSpare()
			return nil, nil, &StageError{StageDial, err}
		}
	}
}

// pick promises a stream on the connection with the fewest, and sees to it that
// the pool grows with use. p.mu is held.
func (p *pool) pick(shunned *h2Conn) *h2Conn {
	var best *h2Conn
	var least int32
	for _, c := range p.conns {
		load := c.load.Load()
		if c == shunned || c.closing.Load() || load >= c.limit.Load() {
			continue
		}
		if best == nil || load < least {
			best, least = c, load
		}
	}
	if best == nil {
		return nil
	}
	if least > 0 && len(p.conns)+p.dialing < p.size && time.Now().After(p.resume) {
		p.startDial()
	}
	best.load.Add(1)
	return best
}

// dialFor dials as many connections as n new streams fill. p.mu is held.
func (p *pool) dialFor(n int) {
	streams := defaultStreamLimit
	for _, c := range p.conns {
		streams = min(streams, max(1, int(c.limit.Load())))
	}
	want := min((n+streams-1)/streams, maxDials)
	if len(p.conns) == 0 {
		want = 1 // what the edge speaks is yet to be learnt
	}
	for p.dialing < want && len(p.conns)+p.dialing < maxConnections {
		p.startDial()
	}
}

// startDial dials a connection for all. No caller's context ends it, since
// others may wait for it too. p.mu is held.
func (p *pool) startDial() {
	p.dialing++
	p.tasks.Go(func() {
		l, err := p.dialer.open(p.ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.dialing--
		switch {
		case err != nil:
			p.failures++
			p.failure = err
			p.resume = time.Now().Add(dialPause)
			p.log.Debug("dial edge", slog.Any("cause", err))
			p.queue.wakeAll()
		case p.closed:
			l.raw.Close()
		case l.http2:
			p.share(l)
		default:
			p.http1 = true
			p.spare = append(p.spare, l)
			p.queue.wakeAll()
			p.closeSpare()
		}
	})
}

// share starts an HTTP/2 connection on l. p.mu is held.
func (p *pool) share(l *link) {
	p.http1 = false
	c := newH2Conn(l, p)
	p.conns = append(p.conns, c)
	p.tasks.Go(c.read)
	p.tasks.Go(c.tend)
	p.log.Info("connection opened", slog.String("protocol", "h2"), slog.Int("connections", len(p.conns)))

	p.queue.wake(int(c.limit.Load()))
	if n := len(p.queue.sleepers); n > 0 {
		p.dialFor(n)
	}
}

// dialHTTP1 dials a link for the caller alone, with the caller's context. It
// returns neither link nor error when the edge has begun to speak HTTP/2. p.mu
// is held, but not meanwhile.
func (p *pool) dialHTTP1(ctx context.Context) (*link, error) {
	p.mu.Unlock()
	l, err := p.openHTTP1(ctx)
	p.mu.Lock()
	if err != nil {
		return nil, err
	}
	if p.closed {
		l.raw.Close()
		return nil, &StageError{StageDial, net.ErrClosed}
	}
	if l.http2 {
		p.share(l)
		return nil, nil
	}
	return l, nil
}

func (p *pool) openHTTP1(ctx context.Context) (*link, error) {
	select {
	case p.handshakes <- struct{}{}:
		defer func() { <-p.handshakes }()
	case <-ctx.Done():
		return nil, &StageError{StageDial, context.Cause(ctx)}
	case <-p.ctx.Done():
		return nil, &StageError{StageDial, net.ErrClosed}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	return p.dialer.open(ctx)
}

// takeSpare returns an HTTP/1.1 link that was dialed for the waiting, or nil.
// p.mu is held.
func (p *pool) takeSpare() *link {
	n := len(p.spare)
	if n == 0 {
		return nil
	}
	l := p.spare[n-1]
	p.spare = p.spare[:n-1]
	return l
}

// closeSpare closes the links that nobody comes for. p.mu is held.
func (p *pool) closeSpare() {
	for len(p.spare) > p.queue.woken {
		p.takeSpare().raw.Close()
	}
}

// protocol is what the edge has chosen, as ALPN spells it, or empty.
func (p *pool) protocol() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.http1:
		return "http/1.1"
	case len(p.conns) > 0:
		return http2.NextProtoTLS
	}
	return ""
}

// freed says that a connection takes n streams more than before.
func (p *pool) freed(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue.wake(n)
}

// gone removes a connection that ended with cause.
func (p *pool) gone(c *h2Conn, cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, func(o *h2Conn) bool { return o == c })
	p.queue.wakeAll()
	if !p.closed {
		p.log.Info("connection ended", slog.Any("cause", cause), slog.Int("connections", len(p.conns)))
	}
}

// retire removes an idle connection that is one too many, and reports whether
// c is: the streams once exceeded what the edge allows on the others.
func (p *pool) retire(c *h2Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.conns) <= p.size || c.load.Load() > 0 {
		return false
	}
	p.conns = slices.DeleteFunc(p.conns, func(o *h2Conn) bool { return o == c })
	return true
}

// close ends all connections and waits for the pool's goroutines.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.queue.wakeAll()
	for l := p.takeSpare(); l != nil; l = p.takeSpare() {
		l.raw.Close()
	}
	conns := slices.Clone(p.conns)
	p.mu.Unlock()

	p.cancel()
	for _, c := range conns {
		c.close()
	}
	p.tasks.Wait()
}
