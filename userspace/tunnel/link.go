package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/bpfacq/bpfacq/userspace/tlsrecord"
)

// link is one TCP connection to the edge, with TLS on it if the edge is secure.
type link struct {
	net.Conn                  // what is read and written: TLS, or TCP in cleartext
	raw      *pulse           // what is under it
	train    *tlsrecord.Train // under that; nil in cleartext
	tcp      net.Conn         // under all of that
	http2    bool             // the edge chose h2
}

// Write writes p, and sends the TLS records of a long one together.
func (l *link) Write(p []byte) (int, error) {
	if l.train == nil {
		return l.Conn.Write(p)
	}
	return l.train.Gather(l.Conn, p)
}

// dialer makes links.
type dialer struct {
	address string
	timeout time.Duration
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	tls     *tls.Config // nil for cleartext

	http2Only bool // whatever else the edge speaks
}

func newDialer(o Options) *dialer {
	d := &dialer{address: o.Address, timeout: o.DialTimeout, dial: o.Dial}
	if d.dial == nil {
		d.dial = new(net.Dialer).DialContext
	}
	if !o.Secure {
		return d
	}
	d.tls = &tls.Config{}
	if o.TLS != nil {
		d.tls = o.TLS.Clone()
	}
	d.tls.ServerName = o.ServerName
	if d.tls.ServerName == "" {
		host, _, err := net.SplitHostPort(o.Address)
		if err != nil {
			host = o.Address // dialing it will say what is wrong
		}
		d.tls.ServerName = host
	}
	d.tls.MinVersion = max(d.tls.MinVersion, tls.VersionTLS12)
	d.tls.NextProtos = []string{http2.NextProtoTLS, "http/1.1"}
	switch o.Transport {
	case TransportHTTP1:
		d.tls.NextProtos = d.tls.NextProtos[1:]
	case TransportHTTP2:
		d.tls.NextProtos = d.tls.NextProtos[:1]
		d.http2Only = true
	}
	// Small first records help a browser to render early; here they only
	// cost: a frame is of use when it is complete.
	d.tls.DynamicRecordSizingDisabled = true
	if d.tls.ClientSessionCache == nil {
		d.tls.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	return d
}

// speaksHTTP2 reports whether the edge is offered HTTP/2 at all.
func (d *dialer) speaksHTTP2() bool {
	return d.tls != nil && slices.Contains(d.tls.NextProtos, http2.NextProtoTLS)
}

// open dials the edge and shakes hands. Its error is a *StageError.
func (d *dialer) open(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	conn, err := d.dial(ctx, "tcp", d.address)
	if err != nil {
		return nil, &StageError{dialStage(err), err}
	}
	if d.tls == nil {
		return &link{Conn: conn, raw: &pulse{Conn: conn}, tcp: conn}, nil
	}
	records := &tlsrecord.Train{Conn: conn}
	raw := &pulse{Conn: records}
	secure := tls.Client(raw, d.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, &StageError{StageTLS, err}
	}
	chosen := secure.ConnectionState().NegotiatedProtocol
	if d.http2Only && chosen != http2.NextProtoTLS {
		conn.Close()
		return nil, &StageError{StageTLS, errNoHTTP2}
	}
	return &link{Conn: secure, raw: raw, train: records, tcp: conn, http2: chosen == http2.NextProtoTLS}, nil
}

// dialStage is where dialing broke off.
func dialStage(err error) Stage {
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return StageResolve
	}
	return StageDial
}

// pulse notices when nothing comes from the edge any more. It lies under TLS,
// which must not see the deadlines, and needs neither goroutine nor timer: the
// reader's deadline is set once per interval, not per read.
type pulse struct {
	net.Conn

	ask      func() error // asks the edge for a sign of life; nil before watch
	interval time.Duration
	patience time.Duration // for the sign of life
	heard    atomic.Bool   // since the deadline was set

	mu       sync.Mutex // held while asking, so taken before a connection's
	deadline time.Time
	asked    bool
}

// watch starts to call ask after an interval of silence, in the goroutine that
// reads. When another patience passes in silence, Read returns errSilent. When
// ask returns an error, Read returns that.
func (p *pulse) watch(interval, patience time.Duration, ask func() error) error {
	p.ask, p.interval, p.patience = ask, interval, patience
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.listen(interval)
}

// listen gives the edge some time to be heard. p.mu is held.
func (p *pulse) listen(span time.Duration) error {
	p.heard.Store(false)
	p.deadline = time.Now().Add(span)
	return p.SetReadDeadline(p.deadline)
}

// doubt ends the interval early: the edge has to be heard within patience. The
// caller asks it, unless doubt returns false because it is being asked.
func (p *pulse) doubt() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked {
		return false
	}
	p.asked = true
	p.listen(p.patience) // an error would be the reader's too
	return true
}

// Read reads, and watches for silence.
func (p *pulse) Read(b []byte) (int, error) {
	for {
		n, err := p.Conn.Read(b)
		if n > 0 && !p.heard.Load() {
			p.heard.Store(true)
		}
		if p.ask == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if err := p.silence(); err != nil || n > 0 {
			return n, err
		}
	}
}

// silence decides what a deadline that has passed means, and sets the next.
func (p *pulse) silence() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case time.Now().Before(p.deadline): // doubt has set a new one
		return p.SetReadDeadline(p.deadline)
	case p.heard.Load():
		p.asked = false
		return p.listen(p.interval)
	case p.asked:
		return errSilent
	}
	if err := p.ask(); err != nil {
		return err
	}
	p.asked = true
	return p.listen(p.patience)
}
