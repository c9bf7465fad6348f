// Package mmsg moves many datagrams with one system call, and finds those that go
// as one: trains, which the kernel takes apart (UDP_SEGMENT of udp(7)).
package mmsg

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// TrainLength is how many datagrams a train may have (UDP_MAX_SEGMENTS of
	// linux/udp.h).
	TrainLength = 64

	// TrainSize is how many bytes they may have: an IPv4 packet, headers off.
	TrainSize = 65535 - 20 - 8
)

// Message is struct mmsghdr of recvmmsg(2).
type Message struct {
	unix.Msghdr
	Length uint32 // bytes that came
}

// Receive is recvmmsg(2), without waiting: it returns how many messages came. The
// error is a [unix.Errno], EAGAIN where there is none.
func Receive(fd uintptr, messages []Message) (int, error) {
	return move(unix.SYS_RECVMMSG, fd, messages)
}

// Send is sendmmsg(2), without waiting: it returns how many messages went. The
// error is a [unix.Errno], EAGAIN where the socket is full.
func Send(fd uintptr, messages []Message) (int, error) {
	return move(unix.SYS_SENDMMSG, fd, messages)
}

func move(call, fd uintptr, messages []Message) (int, error) {
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

// Train is how many datagrams from the front of batch go as one, and their bytes:
// those of one length, and a shorter one after them. Datagrams that are longer than
// largest bytes go alone, as empty ones do.
func Train(batch [][]byte, largest int) (count, size int) {
	first := len(batch[0])
	if first == 0 || first > largest {
		return 1, first
	}
	for _, p := range batch {
		if len(p) > first || len(p) == 0 || count == TrainLength || size+len(p) > TrainSize {
			break
		}
		count, size = count+1, size+len(p)
		if len(p) < first {
			break
		}
	}
	return count, size
}
