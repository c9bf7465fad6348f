package channel

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/tunnel"
)

// maxAnswer bounds what a diagnostic host may send, in bytes, TLS included. The
// body is not read.
const maxAnswer = 64 << 10

// diagnosticURI is where the probes of a channel go, or nil if its profile does
// not say.
func diagnosticURI(ch policy.Channel) *url.URL {
	uri, err := url.Parse(ch.DiagnosticURI)
	if err != nil || uri.Hostname() == "" {
		return nil
	}
	return uri
}

// authority is the "host:port" of an http or https URI.
func authority(uri *url.URL) string {
	port := "443"
	if uri.Scheme == "http" {
		port = "80"
	}
	return net.JoinHostPort(uri.Hostname(), cmp.Or(uri.Port(), port))
}

// fetch asks for diagnosticUri over a stream, until ctx is done, and says what
// came of it.
func (c *Channel) fetch(ctx context.Context, stream tunnel.Stream) string {
	// A stream has no deadlines: only its reset ends a read.
	reset := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(reset)
		stream.Reset()
	})
	status, err := get(&diagnosticConn{Stream: stream, left: maxAnswer}, c.uri, c.opts.Roots)
	if !stop() {
		<-reset
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Sprintf("ask diagnostic host: %v", err)
	}
	return status
}

// get returns the status with which the host of uri answers. The host's own
// text for it is left out.
func get(conn net.Conn, uri *url.URL, roots *x509.CertPool) (string, error) {
	request, err := http.NewRequest(http.MethodGet, uri.String(), nil)
	if err != nil {
		return "", err
	}
	request.Close = true
	request.Header.Set("User-Agent", "bpfacq")
	if uri.Scheme != "http" {
		conn = tls.Client(conn, &tls.Config{ServerName: uri.Hostname(), RootCAs: roots, MinVersion: tls.VersionTLS12})
	}
	if err := request.Write(conn); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return "", err
	}
	// Closing the body would read it to its end, just to be polite.
	return fmt.Sprintf("%d %s", response.StatusCode, http.StatusText(response.StatusCode)), nil
}

// diagnosticConn lets a stream carry TLS, and ends it after some bytes. It has no
// deadlines and no addresses.
type diagnosticConn struct {
	tunnel.Stream
	left int // that may still be read, in bytes
}

// Read implements net.Conn.
func (a *diagnosticConn) Read(p []byte) (int, error) {
	if a.left == 0 {
		return 0, errTooLong
	}
	n, err := a.Stream.Read(p[:min(len(p), a.left)])
	a.left -= n
	return n, err
}

func (*diagnosticConn) LocalAddr() net.Addr              { return nil }
func (*diagnosticConn) RemoteAddr() net.Addr             { return nil }
func (*diagnosticConn) SetDeadline(time.Time) error      { return nil }
func (*diagnosticConn) SetReadDeadline(time.Time) error  { return nil }
func (*diagnosticConn) SetWriteDeadline(time.Time) error { return nil }
