package tunnel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// h3Patience is how long a flow waits for a QUIC connection that is being
	// made, where HTTP/2 can carry it too.
	h3Patience = 300 * time.Millisecond

	// firstRetry and lastRetry are how soon QUIC is tried again after it did
	// not get through; each failure doubles the time.
	firstRetry = 30 * time.Second
	lastRetry  = 10 * time.Minute
)

var (
	errNoHTTP3 = errors.New("edge announces no HTTP/3")
	errBlocked = errors.New("no way for QUIC")
	errLate    = errors.New("no QUIC connection in time")
	errFull    = errors.New("too many QUIC connections")
)

// h3Pool spreads flows over QUIC connections. It knows where the edge speaks
// HTTP/3, and whether QUIC gets through.
type h3Pool struct {
	dialer *h3Dialer
	always bool // the configuration wants HTTP/3, announced or not
	size   int  // connections that are made, and more while the edge's limits demand it
	idle   time.Duration
	log    *slog.Logger

	ctx    context.Context // of dials; ends with close
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	buffers sync.Pool // of *[]byte, for datagrams on their way out

	mu        sync.Mutex
	closed    bool
	place     string // "address:port" that was announced; empty for none
	preferred bool   // for TCP too
	expires   time.Time
	conns     []*h3Conn
	dialed    chan struct{} // closed when the dial under way ends; nil if there is none
	failures  int           // in a row
	failure   error         // the last one
	resume    time.Time
}

func newH3Pool(d *dialer, o Options) *h3Pool {
	ctx, cancel := context.WithCancel(context.Background())
	return &h3Pool{
		dialer: newH3Dialer(d, o),
		always: o.Transport == TransportHTTP3,
		size:   o.Connections,
		idle:   quicIdle,
		log:    o.Log.With(slog.String("edge", o.Address)),
		ctx:    ctx,
		cancel: cancel,
	}
}

// announced takes the Alt-Svc fields of an answer from the edge, which was reached
// at an address.
func (p *h3Pool) announced(fields []string, edge net.Addr) {
	found, ok := parseAlternatives(fields, p.dialer.host)
	if !ok || p.always {
		return
	}
	place := ""
	if host, _, err := net.SplitHostPort(edge.String()); err == nil && found.port != "" {
		place = net.JoinHostPort(host, found.port)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	news := !p.known() || portOf(place) != portOf(p.place)
	p.expires = time.Now().Add(found.maxAge)
	p.preferred = found.preferred
	p.place = place
	if !news {
		return // one more address of an edge with several, or the same
	}
	p.failures, p.resume = 0, time.Time{}
	p.log.Info("edge announces HTTP/3", slog.String("address", place), slog.Bool("preferred", found.preferred))
}

// portOf returns the port of a place, or nothing.
func portOf(place string) string {
	_, port, _ := net.SplitHostPort(place)
	return port
}

// wanted reports whether HTTP/3 is to be tried for TCP, or for UDP.
func (p *h3Pool) wanted(udp bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.always || p.known() && (udp || p.preferred)
}

// known reports whether the edge speaks HTTP/3. p.mu is held.
func (p *h3Pool) known() bool {
	return p.always || p.place != "" && time.Now().Before(p.expires)
}

// carriesTCP reports whether TCP goes over HTTP/3 now.
func (p *h3Pool) carriesTCP() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.always || p.known() && p.preferred && len(p.conns) > 0
}

// acquire returns a connection with a place on it, which is not shunned. It waits
// for no longer than patience, which does not count where HTTP/3 is the only
// choice. Its error is a *StageError.
func (p *h3Pool) acquire(ctx context.Context, patience time.Duration, shunned *h3Conn) (*h3Conn, error) {
	if !p.always {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, patience, errLate)
		defer cancel()
	}
	waited := false
	for {
		c, dialed, err := p.pick(shunned, waited)
		if c != nil || err != nil {
			return c, err
		}
		waited = true
		select {
		case <-dialed:
		case <-ctx.Done():
			return nil, &StageError{StageDial, context.Cause(ctx)}
		}
	}
}

// pick returns the connection with the fewest flows, or what tells when the dial
// for one has ended. Who has waited for one that failed gives up.
func (p *h3Pool) pick(shunned *h3Conn, waited bool) (*h3Conn, <-chan struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, &StageError{StageDial, net.ErrClosed}
	}
	if !p.known() {
		return nil, nil, &StageError{StageDial, errNoHTTP3}
	}
	usable := slices.DeleteFunc(slices.Clone(p.conns), func(c *h3Conn) bool {
		return c == shunned || !c.takes()
	})
	blocked := !p.always && time.Now().Before(p.resume)
	if len(usable) > 0 {
		best := slices.MinFunc(usable, func(a, b *h3Conn) int { return cmp.Compare(a.load.Load(), b.load.Load()) })
		if best.load.Add(1) > 1 && len(p.conns) < p.size && !blocked {
			p.startDial()
		}
		return best, nil, nil
	}
	if p.failure != nil && (blocked || waited && p.dialed == nil) {
		return nil, nil, p.failure
	}
	if len(p.conns) >= maxConnections {
		return nil, nil, &StageError{StageDial, errFull}
	}
	p.startDial()
	return nil, p.dialed, nil
}

// startDial makes a connection for all, unless one is being made. p.mu is held.
func (p *h3Pool) startDial() {
	if p.dialed != nil {
		return
	}
	dialed := make(chan struct{})
	p.dialed = dialed
	place := p.place
	p.tasks.Go(func() {
		c, err := p.dialer.open(p.ctx, place, p)
		p.mu.Lock()
		defer p.mu.Unlock()
		defer close(dialed)
		p.dialed = nil
		switch {
		case err != nil:
			p.blocked(err)
		case p.closed:
			c.end(net.ErrClosed)
			p.tasks.Go(c.attend)
		default:
			p.failures, p.failure, p.resume = 0, nil, time.Time{}
			p.conns = append(p.conns, c)
			p.tasks.Go(c.attend)
			p.log.Info("connection opened", slog.String("protocol", "h3"), slog.Int("connections", len(p.conns)))
		}
	})
}

// run runs a task of a flow, unless the pool is closed.
func (p *h3Pool) run(task func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.tasks.Go(task)
	}
	return !p.closed
}

// blocked notes that QUIC did not get through. p.mu is held.
func (p *h3Pool) blocked(err error) {
	p.failure = err
	if _, ok := errors.AsType[*StageError](err); !ok {
		p.failure = &StageError{StageDial, fmt.Errorf("%w: %w", errBlocked, err)}
	}
	pause := min(firstRetry<<min(p.failures, 8), lastRetry)
	p.failures++
	p.resume = time.Now().Add(pause)
	if !p.closed {
		p.log.Info("QUIC connection not made", slog.Any("cause", err), slog.Duration("retry", pause))
	}
}

// gone forgets a connection that ended with cause. One that fell silent says that
// QUIC is blocked by now.
func (p *h3Pool) gone(c *h3Conn, cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, func(o *h3Conn) bool { return o == c })
	if isSilence(cause) && len(p.conns) == 0 {
		p.blocked(cause)
	}
	if !p.closed {
		p.log.Info("connection ended", slog.String("protocol", "h3"), slog.Any("cause", cause), slog.Int("connections", len(p.conns)))
	}
}

// close ends all connections and waits for the pool's goroutines.
func (p *h3Pool) close() {
	p.mu.Lock()
	p.closed = true
	conns := slices.Clone(p.conns)
	p.mu.Unlock()

	p.cancel()
	for _, c := range conns {
		c.end(net.ErrClosed)
	}
	p.tasks.Wait()
}
