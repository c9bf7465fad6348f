package edge

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/mmsg"
)

const (
	// socketBuffer is what a flow asks of the kernel for each way; it gets no
	// more than net.core.rmem_max and wmem_max say.
	socketBuffer = 1 << 20

	// quietWhileDraining is how long a flow of datagrams, which never ends by
	// itself, may be quiet once the edge drains.
	quietWhileDraining = time.Second
)

var errQuiet = errors.New("flow is quiet")

// datagrams is the destination's end of a CONNECT-UDP flow: a connected UDP
// socket. It moves batches, and the kernel splits and joins trains of equal
// datagrams (UDP_SEGMENT, UDP_GRO).
//
// What the socket can't take at once is dropped, as by any router: waiting
// would make the tunnel a queue. A destination that refuses, by ICMP, does not
// end the flow, which another packet would begin again.
type datagrams struct {
	conn    *net.UDPConn
	raw     syscall.RawConn
	rooms   *rooms
	metrics *metrics

	begun time.Time
	used  atomic.Int64 // when it last carried a datagram, in ns since begun
	limit atomic.Int64 // ns without one at which it ends

	largest atomic.Int32 // datagram that may be part of a train
}

// rooms are the batches that flows borrow while they use them.
type rooms struct {
	intakes, outlets, blocks, returns sync.Pool
}

// borrow takes a T from the pool, or makes one.
func borrow[T any](pool *sync.Pool, fresh func() *T) *T {
	if v, ok := pool.Get().(*T); ok {
		return v
	}
	return fresh()
}

func (e *Edge) newDatagrams(conn *net.UDPConn) (*datagrams, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	d := &datagrams{conn: conn, raw: raw, rooms: &e.rooms, metrics: e.metrics, begun: time.Now()}
	d.limit.Store(int64(e.options.UDPIdleTimeout))
	// Where a device can't do this, or a kernel, datagrams go one by one.
	d.largest.Store(mmsg.TrainSize)
	err = raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1) })
	if err != nil {
		return nil, err
	}
	conn.SetReadBuffer(socketBuffer)
	conn.SetWriteBuffer(socketBuffer)
	return d, conn.SetReadDeadline(d.begun.Add(e.options.UDPIdleTimeout))
}

func (d *datagrams) touch() { d.used.Store(int64(time.Since(d.begun))) }

// receive waits for datagrams and hands them to take, whose argument is valid
// during the call. It returns errQuiet when nothing went either way for
// too long, and net.ErrClosed after close.
func (d *datagrams) receive(take func(*intake)) error {
	for {
		var in *intake
		var failed error
		err := d.raw.Read(func(fd uintptr) bool {
			in = borrow(&d.rooms.intakes, newIntake)
			if failed = in.receive(fd); failed != nil {
				d.rooms.intakes.Put(in)
				in = nil
			}
			return failed != unix.EAGAIN
		})
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err = d.awaitUse(); err != nil {
				return err
			}
		case err != nil:
			return err
		case in != nil:
			d.touch()
			take(in)
			d.rooms.intakes.Put(in)
			return nil
		case !passing(failed):
			return failed
		}
	}
}

// awaitUse has receive wait for the rest of the time that the flow may be quiet.
func (d *datagrams) awaitUse() error {
	for {
		limit := d.limit.Load()
		rest := time.Duration(limit+d.used.Load()) - time.Since(d.begun)
		if rest <= 0 {
			return errQuiet
		}
		if err := d.conn.SetReadDeadline(time.Now().Add(rest)); err != nil || d.limit.Load() == limit {
			return err
		}
	}
}

// passing reports whether a socket's error says something of a datagram and
// nothing of the next one: above all what ICMP brought.
func passing(err error) bool {
	switch err {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.EMSGSIZE, unix.EPROTO,
		unix.ENOPROTOOPT, unix.EACCES, unix.EPERM, unix.ENOBUFS:
		return true
	}
	return false
}

// send sends a batch, and drops what can't go now.
func (d *datagrams) send(batch [][]byte) {
	if len(batch) == 0 {
		return
	}
	d.touch()
	o := borrow(&d.rooms.outlets, func() *outlet { return new(outlet) })
	d.raw.Write(func(fd uintptr) bool {
		for len(batch) > 0 {
			batch = batch[d.sendSome(fd, o, batch):]
		}
		return true
	})
	o.forget()
	d.rooms.outlets.Put(o)
}

// sendSome sends datagrams from the front of batch, and returns how many it is
// done with.
func (d *datagrams) sendSome(fd uintptr, o *outlet, batch [][]byte) (done int) {
	n := o.fill(batch, int(d.largest.Load()))
	retried := false
	for first := 0; first < n; {
		sent, err := o.send(fd, first, n)
		for _, count := range o.counts[first : first+sent] {
			d.metrics.forwarded(batch[done : done+count])
			done += count
		}
		if first += sent; err == nil {
			continue
		}
		count := o.counts[first]
		switch {
		case err == unix.ECONNREFUSED && !retried:
			retried = true // that was about an earlier datagram
			continue
		case count > 1 && err == unix.EIO:
			d.largest.Store(0) // the device takes no trains
			return done
		case count > 1 && (err == unix.EINVAL || err == unix.EMSGSIZE):
			// Longer than the path takes whole: such go alone, in fragments.
			d.largest.Store(int32(len(batch[done]) - 1))
			return done
		}
		d.metrics.dropped(count)
		done += count
		first++
		retried = false
	}
	return done
}

// retire ends the flow when it is quiet.
func (d *datagrams) retire() {
	d.limit.Store(int64(min(time.Duration(d.limit.Load()), quietWhileDraining)))
	d.conn.SetReadDeadline(time.Now())
}

func (d *datagrams) close() { d.conn.Close() }
