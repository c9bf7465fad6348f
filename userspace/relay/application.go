package relay

import (
	"io"
	"net"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/flow"
)

// application is an accepted connection that counts its bytes and remembers
// its own errors, so that they are told from those of the stream it is copied
// from or to.
type application struct {
	conn     *net.TCPConn
	live     *flow.Live
	buffers  *buffers
	readErr  error // other than io.EOF; of the goroutine that reads
	writeErr error // of the goroutine that writes
}

// Read reads what the application sent.
func (a *application) Read(p []byte) (int, error) {
	n, err := a.conn.Read(p)
	return a.sent(n, err)
}

func (a *application) sent(n int, err error) (int, error) {
	a.live.AddSent(n)
	if err != nil && err != io.EOF {
		a.readErr = err
	}
	return n, err
}

// Write gives p to the application, and blocks while it does not read.
func (a *application) Write(p []byte) (int, error) {
	n, err := a.conn.Write(p)
	a.live.AddReceived(n)
	a.writeErr = err
	return n, err
}

// sendTo copies to the edge until the application half-closes. It holds no
// buffer while the application is silent.
func (a *application) sendTo(edge io.Writer) error {
	raw, err := a.conn.SyscallConn()
	if err != nil {
		_, err = a.sent(0, err)
		return err
	}
	r := lazyReader{buffers: a.buffers}
	ready := r.ready // bound once: a closure per read would be garbage per read
	for {
		if err := raw.Read(ready); err != nil {
			r.n, r.err = 0, err // ready may not have been called
		}
		if _, err := a.sent(r.n, r.err); err != nil {
			return ignoreEOF(err)
		}
		_, err = edge.Write(r.buf.bytes[:r.n])
		a.buffers.put(r.buf)
		if err != nil {
			return err
		}
		r.class = classFor(r.n)
	}
}

// receiveFrom copies from the edge until it half-closes. It holds a buffer also
// while the edge is silent, so not one of the largest.
func (a *application) receiveFrom(edge io.Reader) error {
	class := 0
	for {
		buf := a.buffers.get(class)
		n, err := edge.Read(buf.bytes)
		var writeErr error
		if n > 0 {
			_, writeErr = a.Write(buf.bytes[:n])
		}
		a.buffers.put(buf)
		switch {
		case writeErr != nil:
			return writeErr
		case err != nil:
			return ignoreEOF(err)
		}
		class = min(classFor(n), largestClass-1)
	}
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// close closes the connection in order. One of the packet path would be reset
// unless it is told.
func (a *application) close() {
	if a.live.Record().Source.IsValid() {
		a.conn.SetLinger(-1)
	}
	a.conn.Close()
}

// reset closes the connection with RST.
func (a *application) reset() {
	a.conn.SetLinger(0)
	a.conn.Close()
}

// lazyReader reads a socket into a buffer that it takes when there are bytes.
type lazyReader struct {
	buffers *buffers
	class   int // of the next buffer

	// The outcome of ready: n bytes in buf, which the caller puts back, or
	// no buffer and an error, io.EOF at the peer's half-close.
	buf *buffer
	n   int
	err error
}

// ready reads what there is; false means nothing yet. It is for
// syscall.RawConn's Read.
func (r *lazyReader) ready(fd uintptr) bool {
	r.buf = r.buffers.get(r.class)
	r.n, r.err = readNow(int(fd), r.buf.bytes)
	if r.n == 0 {
		r.buffers.put(r.buf)
		r.buf = nil
	}
	return r.err != unix.EAGAIN
}

// readNow reads without waiting.
func readNow(fd int, p []byte) (int, error) {
	for {
		switch n, err := unix.Read(fd, p); {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}
