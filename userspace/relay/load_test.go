package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

func TestSlowEdgeSlowsTheApplication(t *testing.T) {
	c := newCarried(t)
	written := c.fill(t)
	held := c.flows.Totals().BytesSent - pipeLimit
	if held > largestBuffer {
		t.Errorf("relay holds %d bytes for an edge that does not read, want at most %d", held, largestBuffer)
	}
	if uint64(written) < c.flows.Totals().BytesSent {
		t.Errorf("relay counts %d bytes of %d", c.flows.Totals().BytesSent, written)
	}
	c.app.CloseWrite()
	if n, err := io.Copy(io.Discard, c.edge); n != int64(written) || err != nil {
		t.Errorf("edge read %d bytes, %v; want %d", n, err, written)
	}
	c.edge.closeWrite()
	wantOutcome(t, c.ended(t), flow.StateClosed, "")
}

func TestSlowApplicationSlowsTheEdge(t *testing.T) {
	c := newCarried(t)
	c.app.SetReadBuffer(64 << 10)
	const total = 24 << 20
	wrote := make(chan error, 1)
	go func() {
		_, err := io.Copy(c.edge, io.LimitReader(zeros{}, total))
		c.edge.closeWrite()
		wrote <- err
	}()
	// The application reads one byte at a time, so what the relay took in
	// between is what sockets and buffers hold.
	one := make([]byte, 1)
	for range 1000 {
		if _, err := io.ReadFull(c.app, one); err != nil {
			t.Fatal(err)
		}
	}
	if taken := c.flows.Totals().BytesReceived; taken > total/2 {
		t.Errorf("relay took %d bytes for an application that read 1000", taken)
	}
	if n, err := io.Copy(io.Discard, c.app); n != total-1000 || err != nil {
		t.Errorf("application read %d bytes, %v; want %d", n, err, total-1000)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	c.app.CloseWrite()
	f := c.ended(t)
	wantOutcome(t, f, flow.StateClosed, "")
	wantBytes(t, f, 0, total)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// echoDialer answers each flow with a stream that returns what it is sent.
func echoDialer(streams *sync.WaitGroup) Dialer {
	return dialFunc(func(context.Context, flow.Record) (Stream, flow.Route, error) {
		s := newTestStream()
		streams.Go(func() {
			io.Copy(struct{ io.Writer }{edge{s}}, edge{s})
			edge{s}.closeWrite()
		})
		return s, testRoute, nil
	})
}

// serve carries all that is accepted, until the listener is closed.
func (r *rig) serve(ctx context.Context) {
	r.serveWith(func(conn *net.TCPConn) { r.relay.Carry(ctx, conn, testRecord) })
}

func (r *rig) serveWith(carry func(*net.TCPConn)) {
	var carrying sync.WaitGroup
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			conn, err := r.listener.AcceptTCP()
			if err != nil {
				return
			}
			carrying.Go(func() { carry(conn) })
		}
	}()
	r.tb.Cleanup(func() {
		r.listener.Close()
		<-accepting
		carrying.Wait()
	})
}

func TestThousandConcurrentFlowsKeepTheirContent(t *testing.T) {
	const flows = 1000
	var streams, apps sync.WaitGroup
	r := newRig(t, echoDialer(&streams))
	r.serve(t.Context())

	connected := make(chan struct{}, flows)
	start := make(chan struct{})
	for i := range flows {
		apps.Go(func() {
			if err := r.echo(uint64(i), connected, start); err != nil {
				t.Errorf("flow %d: %v", i, err)
			}
		})
	}
	for range flows {
		<-connected
	}
	close(start)
	apps.Wait()
	streams.Wait()
	r.relay.Drain(t.Context())

	totals := r.flows.Totals()
	if totals.Closed != flows || totals.Active != 0 || totals.Reset+totals.Refused+totals.Failed != 0 {
		t.Errorf("totals are %+v, want %d closed", totals, flows)
	}
	if totals.BytesSent != totals.BytesReceived {
		t.Errorf("%d bytes were sent, %d came back", totals.BytesSent, totals.BytesReceived)
	}
}

// echo sends up to 100 KB of seed's own bytes and compares what comes back.
func (r *rig) echo(seed uint64, connected chan<- struct{}, start <-chan struct{}) error {
	conn, err := net.Dial("tcp4", r.listener.Addr().String())
	connected <- struct{}{}
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(3 * patience))
	<-start

	random := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	sent := make([]byte, 1+random.Uint64()%100_000)
	random.Read(sent)
	var writing sync.WaitGroup
	var writeErr error
	writing.Go(func() {
		_, err := conn.Write(sent)
		writeErr = errors.Join(err, conn.(*net.TCPConn).CloseWrite())
	})
	got, err := io.ReadAll(conn)
	writing.Wait()
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("got %d bytes that differ from the %d sent: %w", len(got), len(sent), errors.Join(err, writeErr))
	}
	return errors.Join(err, writeErr)
}
