package edge

import (
	"iter"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/mmsg"
)

const (
	// receiveSlots is how many datagrams, or trains of them, one recvmmsg(2)
	// takes. Each has room for the longest.
	receiveSlots = 16
	receiveRoom  = 64 << 10

	// sendSlots is how many datagrams one sendmmsg(2) takes.
	sendSlots = 64
)

// segmentSize is a control message of UDP_SEGMENT or UDP_GRO. The kernel takes
// 16 bits for the first and gives 32 for the second, in the machine's order.
type segmentSize struct {
	header unix.Cmsghdr
	size   [8]byte
}

// intake is the room for one recvmmsg(2) on a socket with UDP_GRO.
type intake struct {
	messages [receiveSlots]mmsg.Message
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
		h := &in.messages[i]
		h.Iov, h.Control = &in.vectors[i], (*byte)(unsafe.Pointer(&in.control[i]))
		h.SetIovlen(1)
		h.SetControllen(int(unsafe.Sizeof(in.control[i])))
	}
	n, err := mmsg.Receive(fd, in.messages[:])
	in.n = max(n, 0)
	return err
}

// datagrams yields what was received, trains taken apart. What it yields is
// valid until the next receive.
func (in *intake) datagrams() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i := range in.n {
			m := &in.messages[i]
			p := in.room[i*receiveRoom:][:m.Length]
			size := in.control[i].of(&m.Msghdr, len(p))
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
	messages [sendSlots]mmsg.Message
	vectors  [sendSlots]unix.Iovec
	control  [sendSlots]segmentSize
	counts   [sendSlots]int // datagrams of a message
}

// fill takes datagrams from the front of batch and returns how many messages
// they became; trains are of datagrams of at most largest bytes.
func (o *outlet) fill(batch [][]byte, largest int) int {
	messages, next := 0, 0
	for next < min(len(batch), sendSlots) {
		count, _ := mmsg.Train(batch[next:min(len(batch), sendSlots)], largest)
		for i, p := range batch[next : next+count] {
			o.vectors[next+i].Base = unsafe.SliceData(p)
			o.vectors[next+i].SetLen(len(p))
		}
		h := &o.messages[messages]
		*h = mmsg.Message{}
		h.Iov = &o.vectors[next]
		h.SetIovlen(count)
		if count > 1 {
			o.control[messages].set(len(batch[next]))
			h.Control = (*byte)(unsafe.Pointer(&o.control[messages]))
			h.SetControllen(unix.CmsgSpace(2))
		}
		o.counts[messages] = count
		messages++
		next += count
	}
	return messages
}

// send sends the messages from first to the last of n, without waiting, and
// returns how many went.
func (o *outlet) send(fd uintptr, first, n int) (int, error) {
	return mmsg.Send(fd, o.messages[first:n])
}

// forget lets go of the datagrams.
func (o *outlet) forget() { clear(o.vectors[:]) }
