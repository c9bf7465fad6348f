package edge

import (
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// buffers are pools of a few sizes. A flow borrows a buffer only while there
// are bytes to carry, of a size that follows how many there were: a quiet flow
// holds none.
type buffers struct {
	pools [4]sync.Pool
}

// bufferSize is that of a class: 4, 16, 64 and 256 KiB.
func bufferSize(class int) int { return 4 << 10 << (2 * class) }

func (b *buffers) get(class int) *[]byte {
	if buf, ok := b.pools[class].Get().(*[]byte); ok {
		return buf
	}
	buf := make([]byte, bufferSize(class))
	return &buf
}

func (b *buffers) put(class int, buf *[]byte) { b.pools[class].Put(buf) }

// resized is the class for the next read, after one that moved n bytes.
func (b *buffers) resized(class, n int) int {
	switch {
	case n >= bufferSize(class)/4*3 && class < len(b.pools)-1:
		return class + 1
	case class > 0 && n < bufferSize(class-1)/2:
		return class - 1
	}
	return class
}

// inflow reads a socket into borrowed buffers, which it borrows only when the
// socket may have bytes.
type inflow struct {
	raw      syscall.RawConn
	buffers  *buffers
	headroom int // bytes that stay free before what is read
	class    int

	// of the read under way
	limit   int
	buf     *[]byte
	n       int
	err     error
	attempt func(fd uintptr) bool
}

func newInflow(conn *net.TCPConn, buffers *buffers, headroom int) (*inflow, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	in := &inflow{raw: raw, buffers: buffers, headroom: headroom}
	in.attempt = in.read // bound once: a bound method for each read would be garbage
	return in, nil
}

// next waits for bytes and returns them after the headroom, at most limit. It
// returns io.EOF at the peer's FIN. The bytes are valid until release, which
// must follow every call without an error.
func (in *inflow) next(limit int) ([]byte, error) {
	in.limit = limit
	if err := in.raw.Read(in.attempt); err != nil {
		return nil, err
	}
	if in.err != nil {
		return nil, in.err
	}
	return (*in.buf)[:in.headroom+in.n], nil
}

func (in *inflow) read(fd uintptr) bool {
	in.buf = in.buffers.get(in.class)
	space := (*in.buf)[in.headroom:]
	in.n, in.err = ignoringEINTR(unix.Read, int(fd), space[:min(in.limit, len(space))])
	if in.n > 0 {
		return true
	}
	in.buffers.put(in.class, in.buf)
	if in.err == nil {
		in.err = io.EOF
	}
	return in.err != unix.EAGAIN
}

func (in *inflow) release() {
	in.buffers.put(in.class, in.buf)
	in.class = in.buffers.resized(in.class, in.headroom+in.n)
}

// outflow writes to a socket what it takes without waiting.
type outflow struct {
	raw     syscall.RawConn
	p       []byte
	n       int
	err     error
	attempt func(fd uintptr) bool
}

func newOutflow(conn *net.TCPConn) (*outflow, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	out := &outflow{raw: raw}
	out.attempt = out.write
	return out, nil
}

// tryWrite returns how many bytes the socket took, fewer than all of p when it
// is full.
func (out *outflow) tryWrite(p []byte) (int, error) {
	out.p = p
	if err := out.raw.Write(out.attempt); err != nil {
		return 0, err
	}
	return out.n, out.err
}

func (out *outflow) write(fd uintptr) bool {
	out.n, out.err = ignoringEINTR(unix.Write, int(fd), out.p)
	if out.err == unix.EAGAIN {
		out.err = nil
	}
	out.n, out.p = max(out.n, 0), nil
	return true
}

func ignoringEINTR(call func(int, []byte) (int, error), fd int, p []byte) (int, error) {
	for {
		if n, err := call(fd, p); err != unix.EINTR {
			return n, err
		}
	}
}
