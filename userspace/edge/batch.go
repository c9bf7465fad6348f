package edge

import (
	"iter"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// receiveSlots is how many datagrams, or trains of them, one recvmmsg(2)
	// takes. Each has room for the longest.
	receiveSlots = 16
	receiveRoom  = 64 << 10

	// sendSlots is how many datagrams one sendmmsg(2) takes.
	sendSlots = 64

	// trainLength and trainSize bound what goes as one train: datagrams
	// (UDP_MAX_SEGMENTS) and bytes (an IPv4 packet, headers off).
	trainLength = 64
	trainSize   = 65535 - 20 - 8
)

// message is struct mmsghdr of recvmmsg(2).
type message struct {
	header unix.Msghdr
	length uint32
}

// segmentSize is a control message of UDP_SEGMENT or UDP_GRO. The kernel takes
// 16 bits for the first and gives 32 for the second, in the machine's order.
type segmentSize struct {
	header unix.Cmsghdr
	size   [8]byte
}

// intake is the room for one recvmmsg(2) on a socket with UDP_GRO.
type intake struct {
	messages [receiveSlots]message
	vectors  [receiveSlots]unix.Iovec
	control  [receiveSlots]segmentSize
	room     []byte
	n        int // messages received
}

func newIntake() *intake {
	in := &intake{room: make([]byte, receiveSlots*receiveRoom)}
	for i := range in.vectors {
		in.vectors[i].Base = &in.room[i*receiveRoom]
		in.vectors[i].SetLen(receiveRoom)
	}
	return in
}

// receive takes what has arrived, without waiting.
func (in *intake) receive(fd uintptr) error {
	for i := range in.messages {
		h := &in.messages[i].header
		h.Iov, h.Control = &in.vectors[i], (*byte)(unsafe.Pointer(&in.control[i]))
		h.SetIovlen(1)
		h.SetControllen(int(unsafe.Sizeof(in.control[i])))
	}
	n, err := multiple(unix.SYS_RECVMMSG, fd, in.messages[:])
	in.n = max(n, 0)
	return err
}

// datagrams yields what was received, trains taken apart. What it yields is
// valid until the next receive.
func (in *intake) datagrams() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i := range in.n {
			m := &in.messages[i]
			p := in.room[i*receiveRoom:][:m.length]
			size := in.control[i].of(&m.header, len(p))
			for len(p) > size {
				if !yield(p[:size]) {
					return
				}
				p = p[size:]
			}
			if !yield(p) {
				return
			}
		}
	}
}

// of returns the size of the datagrams of a train, or all when it is none.
func (s *segmentSize) of(h *unix.Msghdr, all int) int {
	if int(h.Controllen) < unix.CmsgLen(4) || s.header.Level != unix.SOL_UDP || s.header.Type != unix.UDP_GRO {
		return all
	}
	if size := int(*(*int32)(unsafe.Pointer(&s.size))); size > 0 {
		return size
	}
	return all
}

func (s *segmentSize) set(size int) {
	s.header.Level, s.header.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	s.header.SetLen(unix.CmsgLen(2))
	*(*uint16)(unsafe.Pointer(&s.size)) = uint16(size)
}

// outlet is the room for one sendmmsg(2).
type outlet struct {
	messages [sendSlots]message
	vectors  [sendSlots]unix.Iovec
	control  [sendSlots]segmentSize
	counts   [sendSlots]int // datagrams of a message
}

// fill takes datagrams from the front of batch and returns how many messages
// they became. Datagrams of one size that follow each other, and a shorter one
// after them, become a train, if that size is at most largest.
func (o *outlet) fill(batch [][]byte, largest int) int {
	messages, next := 0, 0
	for next < min(len(batch), sendSlots) {
		first, size := next, len(batch[next])
		train, total := size > 0 && size <= largest, 0
		for next < min(len(batch), sendSlots) {
			p := batch[next]
			if next > first && (!train || len(p) > size || len(p) == 0 ||
				next-first == trainLength || total+len(p) > trainSize) {
				break
			}
			total += len(p)
			o.vectors[next].Base = unsafe.SliceData(p)
			o.vectors[next].SetLen(len(p))
			next++
			if len(p) < size {
				break
			}
		}
		h := &o.messages[messages].header
		*h = unix.Msghdr{Iov: &o.vectors[first]}
		h.SetIovlen(next - first)
		if next-first > 1 {
			o.control[messages].set(size)
			h.Control = (*byte)(unsafe.Pointer(&o.control[messages]))
			h.SetControllen(unix.CmsgSpace(2))
		}
		o.counts[messages] = next - first
		messages++
	}
	return messages
}

// send sends the messages from first to the last of n, without waiting, and
// returns how many went.
func (o *outlet) send(fd uintptr, first, n int) (int, error) {
	return multiple(unix.SYS_SENDMMSG, fd, o.messages[first:n])
}

// forget lets go of the datagrams.
func (o *outlet) forget() { clear(o.vectors[:]) }

// multiple is recvmmsg(2) or sendmmsg(2), without waiting.
func multiple(call, fd uintptr, messages []message) (int, error) {
	for {
		n, _, errno := unix.Syscall6(call, fd, uintptr(unsafe.Pointer(&messages[0])), uintptr(len(messages)),
			unix.MSG_DONTWAIT, 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}
