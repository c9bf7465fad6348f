package datagram_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/datagram"
	"github.com/bpfacq/bpfacq/userspace/flow"
)

// mirror is a Dialer and a flow that costs nothing itself.
type mirror struct {
	deliver chan func([][]byte)
	closed  chan struct{}
	answer  func([][]byte)
}

func (m *mirror) Dial(context.Context, flow.Record) (datagram.Datagrams, flow.Route, error) {
	return &mirror{deliver: make(chan func([][]byte), 1), closed: make(chan struct{}, 2)}, flow.Route{}, nil
}

// Send is called by one goroutine at a time: that of the only receiving socket.
func (m *mirror) Send(batch [][]byte) error {
	if m.answer == nil {
		select {
		case m.answer = <-m.deliver:
		default: // the first waits no longer than the flow
			return nil
		}
	}
	m.answer(batch)
	return nil
}

func (m *mirror) Dropped() uint64 { return 0 }

func (m *mirror) Receive(deliver func([][]byte)) error {
	m.deliver <- deliver
	<-m.closed
	return net.ErrClosed
}

func (m *mirror) Close() error {
	select {
	case m.closed <- struct{}{}:
	default:
	}
	return nil
}

// BenchmarkEcho compares the relay, without a tunnel, with a socket that echoes
// each datagram: windows of datagrams go and come back. An operation is a window.
func BenchmarkEcho(b *testing.B) {
	const window = 32
	for _, size := range []int{200, 1200} {
		for _, train := range []bool{false, true} {
			name := strconv.Itoa(size)
			if train {
				name += "-train"
			}
			b.Run("relay/"+name, func(b *testing.B) {
				bed := newBed(b, &mirror{}, datagram.Limits{})
				echo(b, bed.socket(b, "udp4"), bed.to(far4), size, window, train)
			})
			b.Run("plain/"+name, func(b *testing.B) {
				bed := newBed(b, &mirror{}, datagram.Limits{})
				plain(b, bed)
				echo(b, bed.socket(b, "udp4"), netip.MustParseAddrPort("10.9.0.2:7"), size, window, train)
			})
		}
	}
}

// plain echoes what comes to port 7 of the relay's namespace.
func plain(b *testing.B, bed *bed) {
	listener, err := bed.inside.ListenPacket(b.Context(), "udp4", ":7")
	if err != nil {
		b.Fatal(err)
	}
	conn := listener.(*net.UDPConn)
	var serving sync.WaitGroup
	serving.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if _, err := conn.WriteToUDPAddrPort(buf[:n], from); err != nil {
				return
			}
		}
	})
	b.Cleanup(func() { conn.Close(); serving.Wait() })
}

// echo sends windows, one by one or as trains, and waits for what comes back.
func echo(b *testing.B, conn *net.UDPConn, to netip.AddrPort, size, window int, train bool) {
	payload := make([]byte, size*window)
	buf := make([]byte, 1<<16)
	answered := func(limit time.Duration) bool {
		if err := conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
			b.Fatal(err)
		}
		_, _, err := conn.ReadFromUDPAddrPort(buf)
		return err == nil
	}
	for range 3000 { // until the flow is there
		if _, err := conn.WriteToUDPAddrPort(payload[:1], to); err != nil {
			b.Fatal(err)
		}
		if answered(10 * time.Millisecond) {
			break
		}
	}
	for answered(100 * time.Millisecond) {
	}
	pieces := [][]byte{payload}
	if train {
		raw, err := conn.SyscallConn()
		if err != nil {
			b.Fatal(err)
		}
		controlErr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) })
		if err := errors.Join(controlErr, err); err != nil {
			b.Fatal(err)
		}
	} else {
		pieces = nil
		for i := range window {
			pieces = append(pieces, payload[i*size:][:size])
		}
	}
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	lost := 0
	for b.Loop() {
		for _, p := range pieces {
			if _, err := conn.WriteToUDPAddrPort(p, to); err != nil {
				b.Fatal(err)
			}
		}
		for i := range window {
			if !answered(time.Second) {
				lost += window - i
				break
			}
		}
	}
	b.ReportMetric(float64(lost)/float64(b.N), "lost/op")
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*window), "µs/datagram")
}
