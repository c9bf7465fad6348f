package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/relay"
)

// maxDatagram is the longest payload that UDP has, in bytes.
const maxDatagram = 65535

// dialDirect connects to the original address of a name that goes direct, past
// the programs of the datapath.
func (a *Agent) dialDirect(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	dialer := net.Dialer{Timeout: edgeDialTimeout, Control: a.datapath.Exempt}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.DialContext(ctx, network, to.String())
	if err != nil {
		return nil, fmt.Errorf("send to the original address: %w", err)
	}
	return conn, nil
}

// connectDirect is Connect for a flow to a name that goes direct.
func (a *Agent) connectDirect(ctx context.Context, rec flow.Record) (relay.Stream, flow.Route, error) {
	r := flow.Route{}
	r.Name, _ = a.names.Reverse(rec.OrigDst.Addr())
	conn, err := a.dialDirect(ctx, "tcp", rec.Direct)
	if err != nil {
		return nil, r, err
	}
	return directStream{conn.(*net.TCPConn)}, r, nil
}

// directStream is a connection to the original address of a name.
type directStream struct{ *net.TCPConn }

// Reset implements relay.Stream.
func (s directStream) Reset() error {
	return errors.Join(s.SetLinger(0), s.TCPConn.Close())
}

// Close implements relay.Stream.
func (s directStream) Close() error {
	if err := s.TCPConn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// directDatagrams are those to the original address of a name. They implement
// datagram.Datagrams.
type directDatagrams struct {
	conn    *net.UDPConn
	raw     syscall.RawConn
	dropped atomic.Uint64
}

func newDirectDatagrams(conn *net.UDPConn) (*directDatagrams, error) {
	raw, err := conn.SyscallConn()
	return &directDatagrams{conn: conn, raw: raw}, err
}

// Send implements datagram.Datagrams. It does not wait for a device that takes no
// more. What the network refuses is lost, as datagrams are: the next one tells.
func (d *directDatagrams) Send(batch [][]byte) error {
	return d.raw.Write(func(fd uintptr) bool {
		for _, payload := range batch {
			if _, err := unix.Write(int(fd), payload); err != nil {
				d.dropped.Add(1)
			}
		}
		return true
	})
}

// Dropped implements datagram.Datagrams.
func (d *directDatagrams) Dropped() uint64 { return d.dropped.Load() }

// Receive implements datagram.Datagrams.
func (d *directDatagrams) Receive(deliver func(batch [][]byte)) error {
	buffer := make([]byte, maxDatagram)
	batch := make([][]byte, 1)
	for {
		n, err := d.conn.Read(buffer)
		if err != nil {
			return err // nobody listens there, or it is closed
		}
		batch[0] = buffer[:n]
		deliver(batch)
	}
}

// Close implements datagram.Datagrams.
func (d *directDatagrams) Close() error { return d.conn.Close() }
