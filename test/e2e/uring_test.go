package e2e

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The part of linux/io_uring.h that one connect needs.
const (
	uringOpConnect     = 16
	uringEnterGetEvent = 1
	uringOffSQRing     = 0
	uringOffCQRing     = 0x8000000
	uringOffSQEs       = 0x10000000
)

type uringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFd uint32
	_                                                                      [3]uint32
	sqOff                                                                  struct {
		head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
		_                                                           uint64
	}
	cqOff struct {
		head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
		_                                                           uint64
	}
}

type uringSQE struct {
	opcode, flags uint8
	ioprio        uint16
	fd            int32
	off, addr     uint64
	_             [10]uint32
}

func bytesPointer(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// uringConnect connects fd by io_uring: the hook then runs in a worker or in
// the submitting task, as the kernel likes.
func uringConnect(fd int, to netip.AddrPort) error {
	var p uringParams
	ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return os.NewSyscallError("io_uring_setup", errno)
	}
	defer unix.Close(int(ring))
	sq, err := uringMap(ring, uringOffSQRing, p.sqOff.array+p.sqEntries*4)
	if err != nil {
		return err
	}
	defer unix.Munmap(sq)
	cq, err := uringMap(ring, uringOffCQRing, p.cqOff.cqes+p.cqEntries*16)
	if err != nil {
		return err
	}
	defer unix.Munmap(cq)
	sqes, err := uringMap(ring, uringOffSQEs, uint32(unsafe.Sizeof(uringSQE{})))
	if err != nil {
		return err
	}
	defer unix.Munmap(sqes)

	addr := sockaddrBytes(to)
	*(*uringSQE)(unsafe.Pointer(&sqes[0])) = uringSQE{
		opcode: uringOpConnect, fd: int32(fd),
		addr: uint64(bytesPointer(addr)), off: uint64(len(addr)),
	}
	*(*uint32)(unsafe.Pointer(&sq[p.sqOff.array])) = 0
	atomic.AddUint32((*uint32)(unsafe.Pointer(&sq[p.sqOff.tail])), 1)
	_, _, errno = unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, 1, 1, uringEnterGetEvent, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("io_uring_enter", errno)
	}
	if atomic.LoadUint32((*uint32)(unsafe.Pointer(&cq[p.cqOff.tail]))) != 1 {
		return fmt.Errorf("io_uring completed nothing")
	}
	result := int32(binary.NativeEndian.Uint32(cq[p.cqOff.cqes+8:]))
	if result < 0 {
		return syscall.Errno(-result)
	}
	return nil
}

func uringMap(ring uintptr, offset int64, size uint32) ([]byte, error) {
	b, err := unix.Mmap(int(ring), offset, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, os.NewSyscallError("mmap io_uring", err)
	}
	return b, nil
}

// sockaddrBytes is a sockaddr_in: family in host order, port in network order.
func sockaddrBytes(to netip.AddrPort) []byte {
	b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
	b = binary.BigEndian.AppendUint16(b, to.Port())
	addr := to.Addr().As4()
	b = append(b, addr[:]...)
	return append(b, make([]byte, 8)...)
}
