package bench

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Options and control messages of linux/udp.h.
const (
	udpSegment = 103
	udpGRO     = 104
)

// maxTrain is the most that one send can hold, in segments and in bytes.
const (
	maxTrain      = 40
	maxTrainBytes = 60_000
)

// trainOf is how many datagrams of a size are sent by one call.
func trainOf(size, wanted int) int { return max(1, min(wanted, maxTrain, maxTrainBytes/size)) }

// speak opens a UDP socket that is connected to a target.
func speak(to netip.AddrPort) (*net.UDPConn, error) {
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return nil, err
	}
	conn.SetReadBuffer(4 << 20)
	return conn, conn.SetDeadline(time.Now().Add(patience))
}

// setOption sets an integer option of UDP.
func setOption(conn *net.UDPConn, option, value int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, option, value) })
	return errors.Join(err, failed)
}

// datagramTrips sends a datagram of o.Counter bytes there and back, again and
// again, each once the last has come back, or is taken for lost.
func datagramTrips(o order) (answer, error) {
	conn, err := speak(o.To)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	payload, got := make([]byte, max(o.Counter, 8)), make([]byte, 1<<16)
	var took []time.Duration
	begun := time.Now()
	for n := uint64(0); time.Since(begun) < o.Warm+o.For || len(took) == 0; n++ {
		if time.Since(begun) > patience {
			return answer{}, os.ErrDeadlineExceeded
		}
		sent := time.Now()
		binary.NativeEndian.PutUint64(payload, n)
		if err := tripOnce(conn, payload, got); errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		} else if err != nil {
			return answer{}, err
		}
		if sent.Sub(begun) >= o.Warm {
			took = append(took, time.Since(sent))
		}
	}
	return spread(took, o.For), nil
}

// lost is how long an answer may take until it is taken for lost.
const lost = time.Second

func tripOnce(conn *net.UDPConn, payload, got []byte) error {
	if _, err := conn.Write(payload); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(lost)); err != nil {
		return err
	}
	for {
		n, err := conn.Read(got)
		if err != nil {
			return err
		}
		if n >= 8 && string(got[:8]) == string(payload[:8]) {
			return nil
		}
	}
}

// untilSome repeats what may come to nothing on a machine that is busy with
// something else.
func untilSome(do func(order) (answer, error)) func(order) (answer, error) {
	return func(o order) (answer, error) {
		for begun := time.Now(); ; {
			a, err := do(o)
			if err != nil || a.Count > 0 || time.Since(begun) > patience {
				return a, err
			}
		}
	}
}

// sendDatagrams sends datagrams of o.Counter bytes, o.Flows by each call, as fast as
// the socket takes them, and counts the bytes that the target has received.
func sendDatagrams(o order) (answer, error) {
	conn, err := speak(o.To)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	train := trainOf(o.Counter, o.Flows)
	payload := make([]byte, o.Counter*train)
	if _, err := received(conn); err != nil { // by which the flow is there, too
		return answer{}, err
	}
	if train > 1 {
		if err := setOption(conn, udpSegment, o.Counter); err != nil {
			return answer{}, err
		}
	}
	pour := func(d time.Duration) error {
		for begun := time.Now(); time.Since(begun) < d; {
			if _, err := conn.Write(payload); err != nil && !errors.Is(err, syscall.ENOBUFS) {
				return err
			}
		}
		return nil
	}
	if err := pour(o.Warm); err != nil {
		return answer{}, err
	}
	before, err := received(conn)
	if err != nil {
		return answer{}, err
	}
	begun := time.Now()
	if err := pour(o.For); err != nil {
		return answer{}, err
	}
	elapsed := time.Since(begun)
	after, err := received(conn)
	return answer{Count: float64(after - before), Elapsed: elapsed}, err
}

// received asks the target how many bytes it has of this flow, until it answers.
func received(conn *net.UDPConn) (uint64, error) {
	if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	buf := make([]byte, 1<<16)
	for begun := time.Now(); time.Since(begun) < patience; {
		if _, err := conn.Write([]byte{0}); err != nil && !errors.Is(err, syscall.ENOBUFS) {
			return 0, err
		}
		if err := conn.SetReadDeadline(time.Now().Add(lost / 5)); err != nil {
			return 0, err
		}
		n, err := conn.Read(buf)
		if err == nil && n == 8 {
			return binary.NativeEndian.Uint64(buf), nil
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, err
		}
	}
	return 0, os.ErrDeadlineExceeded
}

// receiveDatagrams has the target send datagrams of o.Counter bytes, o.Flows by each
// call, and counts the bytes that arrive.
func receiveDatagrams(o order) (answer, error) {
	conn, err := speak(o.To)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	if err := setOption(conn, udpGRO, 1); err != nil {
		return answer{}, err
	}
	wish := binary.NativeEndian.AppendUint32(nil, uint32(o.Counter))
	wish = binary.NativeEndian.AppendUint32(wish, uint32(trainOf(o.Counter, o.Flows)))
	wish = binary.NativeEndian.AppendUint64(wish, uint64(o.Warm+o.For))
	if _, err := conn.Write(wish); err != nil {
		return answer{}, err
	}
	buf := make([]byte, 1<<16)
	if _, err := conn.Read(buf); err != nil { // the first: from here on time counts
		return answer{}, err
	}
	begun := time.Now()
	var a answer
	for {
		if err := conn.SetReadDeadline(begun.Add(o.Warm + o.For)); err != nil {
			return answer{}, err
		}
		n, err := conn.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return answer{}, err
		}
		if time.Since(begun) >= o.Warm {
			a.Count += float64(n)
		}
	}
	a.Elapsed = o.For
	return a, nil
}

// serveDatagrams is the target's part, until the process ends.
func serveDatagrams(port int, take func(*net.UDPConn, datagrams)) error {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port})
	if err != nil {
		return err
	}
	conn.SetReadBuffer(4 << 20)
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = errors.Join(
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, udpGRO, 1))
	})
	if err := errors.Join(err, failed); err != nil {
		return err
	}
	go func() {
		buf, control := make([]byte, 1<<16), make([]byte, 256)
		for {
			n, told, _, from, err := conn.ReadMsgUDPAddrPort(buf, control)
			if err != nil {
				return
			}
			take(conn, describe(buf[:n], control[:told], from))
		}
	}()
	return nil
}

// datagrams are some that came from one place at once.
type datagrams struct {
	from netip.AddrPort
	to   [4]byte
	all  []byte
	size int // of each but the last
}

// describe reads the control messages of what came.
func describe(all, control []byte, from netip.AddrPort) datagrams {
	d := datagrams{from: from, all: all, size: max(len(all), 1)}
	messages, _ := unix.ParseSocketControlMessage(control)
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO:
			d.to = (*unix.Inet4Pktinfo)(unsafe.Pointer(&m.Data[0])).Addr
		case m.Header.Level == unix.IPPROTO_UDP && m.Header.Type == udpGRO:
			d.size = int(*(*int32)(unsafe.Pointer(&m.Data[0])))
		}
	}
	return d
}

// source is the control message that an answer leaves from where its question came
// to.
func (d datagrams) source() []byte {
	return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: d.to})
}

// counting answers a datagram of one byte with how many bytes came from there.
func counting() func(*net.UDPConn, datagrams) {
	counts := make(map[netip.AddrPort]uint64)
	return func(conn *net.UDPConn, d datagrams) {
		counts[d.from] += uint64(len(d.all))
		if last := len(d.all) % d.size; last == 1 || len(d.all) == 1 {
			conn.WriteMsgUDPAddrPort(binary.NativeEndian.AppendUint64(nil, counts[d.from]), d.source(), d.from)
		}
	}
}

// echoDatagrams answers each datagram with itself.
func echoDatagrams(conn *net.UDPConn, d datagrams) {
	for rest := d.all; len(rest) > 0; {
		n := min(d.size, len(rest))
		conn.WriteMsgUDPAddrPort(rest[:n], d.source(), d.from)
		rest = rest[n:]
	}
}

// sourceDatagrams sends what a datagram wishes for.
func sourceDatagrams(conn *net.UDPConn, d datagrams) {
	if len(d.all) < 16 {
		return
	}
	size := int(binary.NativeEndian.Uint32(d.all))
	train := int(binary.NativeEndian.Uint32(d.all[4:]))
	d.all = append([]byte(nil), d.all[:16]...)
	go func() {
		payload, control := make([]byte, size*train), append(d.source(), segmentMessage(size)...)
		for begun := time.Now(); time.Since(begun) < time.Duration(binary.NativeEndian.Uint64(d.all[8:])); {
			conn.WriteMsgUDPAddrPort(payload, control, d.from) // what is not sent is lost
		}
	}()
}

// segmentMessage is the control message by which one send is many datagrams.
func segmentMessage(size int) []byte {
	message := make([]byte, unix.CmsgSpace(2))
	header := (*unix.Cmsghdr)(unsafe.Pointer(&message[0]))
	header.Level, header.Type = unix.IPPROTO_UDP, udpSegment
	header.SetLen(unix.CmsgLen(2))
	*(*uint16)(unsafe.Pointer(&message[unix.CmsgLen(0)])) = uint16(size)
	return message
}
