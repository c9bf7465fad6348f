package datagram

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/mmsg"
)

// maxReplies bounds the sockets that replies are sent from, of which there is one
// for each port of the destinations that answer.
const maxReplies = 1 << 14

// sendBuffer is what such a socket may hold, in bytes.
const sendBuffer = 1 << 20

// target is where the replies of a flow go, and from where.
type target struct {
	port   replyPort
	name   name // of the flow's source
	length uint32
	from   control // that the original destination is the sender

	mu     sync.Mutex
	socket *reply // once there was a reply
	gone   bool   // and there is none any more
}

// replyPort is the port of an original destination.
type replyPort struct {
	family family
	port   uint16
}

// control is room for the control messages of a reply: the address that it is
// sent from, and the length of the datagrams of a train.
type control struct {
	room   [96]byte
	length int
}

// aim sets where the replies of a flow go.
func (t *target) aim(key Key) {
	t.port = replyPort{familyOf(key.OrigDst.Addr()), key.OrigDst.Port()}
	t.name, t.length = nameOf(key.Source)
	if t.port.family == ipv4 {
		info := unix.Inet4Pktinfo{Spec_dst: key.OrigDst.Addr().As4()}
		t.from.add(unix.SOL_IP, unix.IP_PKTINFO, unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info)))
		return
	}
	info := unix.Inet6Pktinfo{Addr: key.OrigDst.Addr().As16()}
	t.from.add(unix.SOL_IPV6, unix.IPV6_PKTINFO, unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info)))
}

// add appends a control message.
func (c *control) add(level, kind int32, body []byte) {
	head := (*unix.Cmsghdr)(unsafe.Pointer(&c.room[c.length]))
	head.Level, head.Type = level, kind
	head.SetLen(unix.CmsgLen(len(body)))
	copy(c.room[c.length+unix.CmsgLen(0):], body)
	c.length += unix.CmsgSpace(len(body))
}

// replies are the sockets that replies are sent from, one for each port of the
// original destinations: each flow's address is given with each datagram.
type replies struct {
	namespace Namespace
	rooms     sync.Pool // of *outbox

	mu      sync.Mutex
	sockets map[replyPort]*reply
}

// reply is one of them.
type reply struct {
	port  replyPort
	file  *os.File
	fd    int
	flows int // of replies.mu
}

func newReplies(namespace Namespace) *replies {
	return &replies{namespace: namespace, sockets: make(map[replyPort]*reply)}
}

func (r *replies) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sockets)
}

// of returns the socket of a target, nil where there can be none.
func (r *replies) of(t *target) *reply {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.socket == nil && !t.gone {
		t.socket = r.acquire(t.port)
	}
	return t.socket
}

func (r *replies) acquire(port replyPort) *reply {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sockets[port]
	if s == nil {
		if len(r.sockets) >= maxReplies {
			return nil
		}
		// A port that cannot be had costs this reply, and the next one tries again.
		if r.namespace.Do(func() (err error) { s, err = openReply(port); return err }) != nil {
			return nil
		}
		r.sockets[port] = s
	}
	s.flows++
	return s
}

// release lets go of the socket of a target.
func (r *replies) release(t *target) {
	t.mu.Lock()
	s := t.socket
	t.socket, t.gone = nil, true
	t.mu.Unlock()
	if s == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.flows--; s.flows == 0 && r.sockets[s.port] == s {
		delete(r.sockets, s.port)
		s.file.Close()
	}
}

func (r *replies) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for port, s := range r.sockets {
		delete(r.sockets, port)
		errs = append(errs, s.file.Close())
	}
	return errors.Join(errs...)
}

// openReply opens a socket that sends from a port of any address, in the calling
// thread's namespace.
func openReply(port replyPort) (_ *reply, err error) {
	fd, err := unix.Socket(int(port.family), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	s := &reply{port: port, fd: fd, file: os.NewFile(uintptr(fd), "replies")}
	err = errors.Join(
		transparent(fd, port.family),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 0), // nothing is received here
	)
	if port.family == ipv4 {
		// Answers may be forwarded to where the MTU is smaller. What that router would
		// tell their sender, it tells the network: so it may cut them.
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT))
	}
	if err == nil {
		_, err = bind(fd, port.family, port.port)
	}
	if err != nil {
		s.file.Close()
		return nil, fmt.Errorf("open socket for replies: %w", err)
	}
	return s, nil
}

// send sends a batch, and returns how many datagrams went, with so many bytes
// altogether. What cannot go at once is dropped.
func (r *replies) send(t *target, batch [][]byte) (sent, bytes int) {
	s := r.of(t)
	if s == nil {
		return 0, 0
	}
	raw, err := s.file.SyscallConn()
	if err != nil {
		return 0, 0
	}
	out, ok := r.rooms.Get().(*outbox)
	if !ok {
		out = new(outbox)
	}
	defer r.rooms.Put(out)
	defer out.forget()
	// Control keeps the descriptor open; the socket is not waited for.
	_ = raw.Control(func(fd uintptr) { sent, bytes = out.send(fd, t, batch) })
	return sent, bytes
}

// outbox is the room for one sendmmsg(2).
type outbox struct {
	headers [sendSlots]mmsg.Message
	vectors [sendSlots]unix.Iovec
	control [sendSlots]control
	counts  [sendSlots]int // datagrams of a message
	sizes   [sendSlots]int // bytes of it
}

// send sends trains of datagrams of one length, as far as the way takes them whole.
func (o *outbox) send(fd uintptr, t *target, batch [][]byte) (sent, bytes int) {
	largest := mmsg.TrainSize
	for len(batch) > 0 {
		n := o.fill(t, batch, largest)
		m, err := mmsg.Send(fd, o.headers[:n])
		for i := range m {
			sent, bytes = sent+o.counts[i], bytes+o.sizes[i]
			batch = batch[o.counts[i]:]
		}
		switch {
		case err == nil:
		case m == 0 && o.counts[0] > 1 && errors.Is(err, unix.EIO):
			largest = 0 // the device takes no trains
		case m == 0 && o.counts[0] > 1 && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EMSGSIZE)):
			largest = len(batch[0]) - 1 // longer than the MTU: such go alone, in fragments
		case errors.Is(err, unix.EAGAIN):
			return sent, bytes
		default:
			batch = batch[o.counts[0]:]
		}
	}
	return sent, bytes
}

// fill takes datagrams from the front of batch, and returns how many messages
// they became.
func (o *outbox) fill(t *target, batch [][]byte, largest int) int {
	messages, next := 0, 0
	for next < min(len(batch), sendSlots) {
		count, size := mmsg.Train(batch[next:min(len(batch), sendSlots)], largest)
		for i, p := range batch[next : next+count] {
			o.vectors[next+i].Base = unsafe.SliceData(p)
			o.vectors[next+i].SetLen(len(p))
		}
		c := &o.control[messages]
		*c = t.from
		if count > 1 {
			segment := uint16(len(batch[next]))
			c.add(unix.SOL_UDP, unix.UDP_SEGMENT, unsafe.Slice((*byte)(unsafe.Pointer(&segment)), unsafe.Sizeof(segment)))
		}
		h := &o.headers[messages]
		*h = mmsg.Message{}
		h.Name, h.Namelen = &t.name[0], t.length
		h.Iov = &o.vectors[next]
		h.SetIovlen(count)
		h.Control = &c.room[0]
		h.SetControllen(c.length)
		o.counts[messages], o.sizes[messages] = count, size
		messages++
		next += count
	}
	return messages
}

// forget lets go of the datagrams.
func (o *outbox) forget() { clear(o.vectors[:]) }
