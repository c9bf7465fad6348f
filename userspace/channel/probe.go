package channel

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

// probeTimeout bounds one probe, from the connection to its answer.
const probeTimeout = 5 * time.Second

// probe looks after the edges until ctx is done: those that fail when their
// back-off ends, and the one in use at each interval.
func (c *Channel) probe(ctx context.Context) {
	due := time.Now()
	for {
		c.probeFailing(ctx)
		if !time.Now().Before(due) {
			c.probeInUse(ctx)
			due = time.Now().Add(jitter(c.opts.ProbeInterval))
		}
		timer := time.NewTimer(time.Until(c.nextRetry(due)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-c.wake:
			timer.Stop()
		}
	}
}

// nextRetry is when the first failing edge is to be probed, at the latest due.
func (c *Channel) nextRetry(due time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members {
		if m.failures > 0 && m.retryAt.Before(due) {
			due = m.retryAt
		}
	}
	return due
}

func (c *Channel) probeFailing(ctx context.Context) {
	c.mu.Lock()
	now := time.Now()
	var failing []*member
	for _, m := range c.members {
		if m.failures > 0 && !m.retryAt.After(now) {
			failing = append(failing, m)
		}
	}
	c.mu.Unlock()
	for _, m := range failing {
		c.probeEdge(ctx, m)
	}
}

// probeInUse probes the edge that a flow would take now.
func (c *Channel) probeInUse(ctx context.Context) {
	candidates, err := c.candidates()
	if err != nil {
		return // all edges wait for the end of their back-off
	}
	result, ok := c.probeEdge(ctx, candidates[0])
	if !ok || c.opts.Channel.DiagnosticURI == "" {
		return
	}
	c.mu.Lock()
	c.diagnostic = result
	c.mu.Unlock()
}

// probeEdge asks an edge for a stream to the host of diagnosticUri, or to the
// edge itself where the profile names none. Any answer shows that the edge is
// well: one that does not carry flows to that host may carry all others. What
// the host then says is returned for people to see.
func (c *Channel) probeEdge(ctx context.Context, m *member) (diagnostic string, answered bool) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	target, uri := probeTarget(c.opts.Channel, m.edge)
	stream, err := m.tunnel.Connect(ctx, target)
	if ctx.Err() == context.DeadlineExceeded {
		err = cmp.Or(err, context.Cause(ctx))
		c.failed(m, err)
		return "", false
	}
	if !c.judge(ctx, m, err) || ctx.Err() != nil {
		return "", false
	}
	if err != nil {
		return err.Error(), true
	}
	defer stream.Close()
	if uri == nil {
		return "", true
	}
	// A stream knows no deadlines: its end is what the context means.
	stop := context.AfterFunc(ctx, func() { stream.Reset() })
	defer stop()
	status, err := c.get(stream, uri)
	if err != nil {
		return err.Error(), true
	}
	return status, true
}

// probeTarget is where a probe of an edge goes.
func probeTarget(ch policy.Channel, edge policy.Edge) (authority string, uri *url.URL) {
	uri, err := url.Parse(ch.DiagnosticURI)
	if err != nil || uri.Hostname() == "" {
		return address(edge), nil
	}
	port := uri.Port()
	if port == "" {
		port = map[string]string{"http": "80"}[uri.Scheme]
	}
	return net.JoinHostPort(uri.Hostname(), cmp.Or(port, "443")), uri
}

// get fetches uri over a stream and returns the status line's text.
func (c *Channel) get(stream tunnel.Stream, uri *url.URL) (string, error) {
	var conn io.ReadWriter = stream
	if uri.Scheme != "http" {
		secured := tls.Client(streamConn{stream}, &tls.Config{
			ServerName: uri.Hostname(), RootCAs: c.opts.Roots, MinVersion: tls.VersionTLS12,
		})
		if err := secured.Handshake(); err != nil {
			return "", fmt.Errorf("diagnostic host: %w", err)
		}
		conn = secured
	}
	request, err := http.NewRequest(http.MethodGet, uri.String(), nil)
	if err != nil {
		return "", err
	}
	request.Close = true
	if err := request.Write(conn); err != nil {
		return "", fmt.Errorf("ask diagnostic host: %w", err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return "", fmt.Errorf("read answer of diagnostic host: %w", err)
	}
	response.Body.Close()
	return response.Status, nil
}

// streamConn lets a stream carry TLS. It has no deadlines and no addresses.
type streamConn struct{ tunnel.Stream }

func (streamConn) LocalAddr() net.Addr              { return nil }
func (streamConn) RemoteAddr() net.Addr             { return nil }
func (streamConn) SetDeadline(time.Time) error      { return nil }
func (streamConn) SetReadDeadline(time.Time) error  { return nil }
func (streamConn) SetWriteDeadline(time.Time) error { return nil }
