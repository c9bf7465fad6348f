package datagram

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/mmsg"
)

// receiveBuffer is what a receiving socket may hold, in bytes: the datagrams of
// all flows wait there while those before them are handed on.
const receiveBuffer = 4 << 20

// intake is one receiving socket, and the room for what one system call brings.
type intake struct {
	family family
	file   *os.File
	fd     int
	port   uint16

	headers [slots]mmsg.Message
	vectors [slots]unix.Iovec
	names   [slots]name
	control [slots][controlRoom]byte
	room    []byte
	batch   [][]byte // of one arrival
}

// listen opens a receiving socket in the calling thread's namespace that shares a
// port with others; 0 is any free one.
func listen(f family, port uint16) (_ *intake, err error) {
	fd, err := unix.Socket(int(f), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	in := &intake{family: f, fd: fd, file: os.NewFile(uintptr(fd), "datagrams")}
	defer func() {
		if err != nil {
			in.file.Close()
		}
	}()
	if err := in.configure(); err != nil {
		return nil, fmt.Errorf("configure socket: %w", err)
	}
	if in.port, err = bind(fd, f, port); err != nil {
		return nil, err
	}
	in.room = make([]byte, slots*longest)
	return in, nil
}

func (in *intake) configure() error {
	// Beyond net.core.rmem_max the buffer needs CAP_NET_ADMIN, as transparency does.
	err := errors.Join(
		transparent(in.fd, in.family),
		unix.SetsockoptInt(in.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		unix.SetsockoptInt(in.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer),
		unix.SetsockoptInt(in.fd, unix.SOL_UDP, unix.UDP_GRO, 1),
	)
	if in.family == ipv4 {
		return errors.Join(err, unix.SetsockoptInt(in.fd, unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1))
	}
	return errors.Join(err, unix.SetsockoptInt(in.fd, unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR, 1))
}

// transparent makes a socket one that may use any address, and shares its port
// with the sockets that send from there.
func transparent(fd int, f family) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if f == ipv4 {
		return errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1))
	}
	return errors.Join(err,
		unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 1),
		unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1))
}

// bind binds a socket to a port of every address, and returns that.
func bind(fd int, f family, port uint16) (uint16, error) {
	var any unix.Sockaddr = &unix.SockaddrInet4{Port: int(port)}
	if f == ipv6 {
		any = &unix.SockaddrInet6{Port: int(port)}
	}
	if err := unix.Bind(fd, any); err != nil {
		return 0, fmt.Errorf("bind to port %d: %w", port, err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return 0, fmt.Errorf("read port: %w", err)
	}
	switch at := bound.(type) {
	case *unix.SockaddrInet4:
		return uint16(at.Port), nil
	case *unix.SockaddrInet6:
		return uint16(at.Port), nil
	}
	return 0, unix.EAFNOSUPPORT
}

// arrival is what messages brought that came for a flow one after the other.
type arrival struct {
	key   Key
	batch [][]byte // datagrams, valid until take returns
}

// receive hands on what arrives, until stop. Calls of take come one after the
// other.
func (in *intake) receive(take func(arrival)) error {
	raw, err := in.file.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var n int
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, failed = in.fetch(fd)
			return failed != unix.EAGAIN
		})
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("receive datagrams: %w", err)
		}
		in.deliver(n, take)
		// What ICMP brought is about a reply, and was taken with this call.
		if failed != nil && !isPassing(failed) {
			return fmt.Errorf("receive datagrams: %w", failed)
		}
	}
}

// isPassing reports whether an error of a socket says something of one datagram.
func isPassing(err error) bool {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return false
	}
	switch errno {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.EMSGSIZE, unix.ENOBUFS,
		unix.EPROTO, unix.ENOPROTOOPT, unix.EACCES, unix.EPERM, unix.ENOMEM, unix.EIO, unix.ENETDOWN:
		return true
	}
	return false
}

func (in *intake) fetch(fd uintptr) (int, error) {
	for i := range in.headers {
		in.vectors[i].Base = &in.room[i*longest]
		in.vectors[i].SetLen(longest)
		h := &in.headers[i]
		*h = mmsg.Message{}
		h.Name, h.Namelen = &in.names[i][0], uint32(len(in.names[i]))
		h.Iov = &in.vectors[i]
		h.SetIovlen(1)
		h.Control = &in.control[i][0]
		h.SetControllen(controlRoom)
	}
	return mmsg.Receive(fd, in.headers[:])
}

// deliver hands on the first n messages.
func (in *intake) deliver(n int, take func(arrival)) {
	var key Key
	in.batch = in.batch[:0]
	for i := range n {
		of, segment, ok := in.read(i)
		if !ok {
			continue
		}
		if of != key && len(in.batch) > 0 {
			take(arrival{key, in.batch})
			in.batch = in.batch[:0]
		}
		key = of
		payload := in.room[i*longest:][:in.headers[i].Length]
		for segment > 0 && len(payload) > segment {
			in.batch, payload = append(in.batch, payload[:segment]), payload[segment:]
		}
		in.batch = append(in.batch, payload)
	}
	if len(in.batch) > 0 {
		take(arrival{key, in.batch})
	}
}

// read returns of which flow a message is, and the length of its datagrams if it is
// a train; false if nobody knows where it comes from or goes to.
func (in *intake) read(i int) (of Key, segment int, ok bool) {
	h := &in.headers[i]
	source, ok := addrPort(in.names[i][:h.Namelen])
	m := readControl(in.control[i][:h.Controllen])
	if !ok || source.Port() == 0 || m.origDst.Port() == 0 {
		return Key{}, 0, false
	}
	return Key{source, m.origDst}, m.segment, true
}

// stop ends receive.
func (in *intake) stop() {
	// A socket that is closed needs none.
	_ = in.file.SetReadDeadline(time.Unix(1, 0))
}

func (in *intake) close() error { return in.file.Close() }
