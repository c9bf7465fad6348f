package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Datagrams is one CONNECT-UDP through an edge (RFC 9298): UDP payloads each way
// between an application and one original destination.
//
// One goroutine may send while another receives; Close may come from any.
type Datagrams interface {
	// Send takes whole UDP payloads, of up to 65,527 bytes each, and copies
	// what it keeps. It doesn't wait for the edge: what the tunnel has no
	// room for is dropped, as a router would, and counted. The error says
	// that the flow is over, as Receive's does.
	Send(batch [][]byte) error

	// Receive hands out what arrives until the flow is over: io.EOF when the
	// edge ended it in order, an error that matches ErrReset when it, or
	// the connection, broke it off, net.ErrClosed after Close. A batch is
	// not empty, and is valid while deliver runs.
	Receive(deliver func(batch [][]byte)) error

	// Dropped is how many datagrams Send, and a slow Receive, have dropped.
	Dropped() uint64

	// Close ends the flow, and Receive. Closing again does nothing.
	Close() error
}

// ErrNoDatagrams says that an edge does not carry UDP, whatever it is asked for.
var ErrNoDatagrams = errors.New("edge carries no datagrams")

// ConnectUDP asks the edge for a flow of datagrams to authority, which is as in
// Connect, and returns when the edge has agreed. ctx bounds the asking, not the
// flow. HTTP/3 carries it where the edge speaks that and QUIC gets through, else
// HTTP/2.
//
// The error matches ErrNoDatagrams if the edge speaks none of what CONNECT-UDP
// needs, and is otherwise as in Connect.
func (t *Tunnel) ConnectUDP(ctx context.Context, authority string) (Datagrams, error) {
	r, err := t.request(authority, true)
	if err != nil {
		return nil, err
	}
	var late bool
	if t.h3 != nil && t.h3.wanted(true) {
		d, err := t.connectUDP3(ctx, r, h3Patience)
		if err == nil || !t.elsewhere(err) {
			return d, t.judge(err)
		}
		late = errors.Is(err, errLate)
	}
	d, err := t.connectUDP2(ctx, r)
	if late && errors.Is(err, ErrNoDatagrams) {
		if d, err := t.connectUDP3(ctx, r, t.pool.dialer.timeout); err == nil || !t.elsewhere(err) {
			return d, t.judge(err)
		}
	}
	return d, t.judge(err)
}

// connectUDP3 is ConnectUDP over HTTP/3.
func (t *Tunnel) connectUDP3(ctx context.Context, r request, patience time.Duration) (Datagrams, error) {
	return untilAnswered(
		func(shunned *h3Conn) (*h3Conn, error) { return t.h3.acquire(ctx, patience, shunned) },
		func(c *h3Conn) (Datagrams, error) {
			d, err := c.connectUDP(ctx, r)
			if err != nil {
				return nil, err
			}
			return d, nil
		})
}

// connectUDP2 is ConnectUDP over HTTP/2.
func (t *Tunnel) connectUDP2(ctx context.Context, r request) (Datagrams, error) {
	if !t.pool.dialer.speaksHTTP2() {
		return nil, fmt.Errorf("%w: no HTTP/2", ErrNoDatagrams)
	}
	return untilAnswered(
		func(shunned *h2Conn) (*h2Conn, error) {
			c, l, err := t.pool.acquire(ctx, shunned)
			if l != nil {
				l.raw.Close()
				return nil, fmt.Errorf("%w: edge chose HTTP/1.1", ErrNoDatagrams)
			}
			return c, err
		},
		func(c *h2Conn) (Datagrams, error) {
			d, err := c.connectUDP(ctx, r)
			if err != nil {
				return nil, err
			}
			return d, nil
		})
}

// judge notes that an edge has answered as one that knows CONNECT-UDP. Of one
// that never has, some answers say that it doesn't.
func (t *Tunnel) judge(err error) error {
	refused, ok := errors.AsType[*RefusedError](err)
	switch {
	case err == nil, ok && !noUDP(refused.Status):
		t.carriesUDP.Store(true)
	case ok && !t.carriesUDP.Load():
		return fmt.Errorf("%w: %w", ErrNoDatagrams, err)
	}
	return err
}

// noUDP are the answers of an edge that doesn't know CONNECT-UDP.
func noUDP(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	}
	return false
}
