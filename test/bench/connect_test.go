package bench

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// connects times connect(2) alone, of blocking sockets on one thread. Each
// connection says one byte before it goes, so that the other end has done with
// accepting it, and goes with a reset, so that no port is left waiting.
func connects(o order) (answer, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	to := sockaddr(o.To)
	var took []time.Duration
	begun := time.Now()
	for len(took) == 0 || time.Since(begun) < o.For {
		d, err := connectOnce(to)
		if err != nil {
			return answer{}, err
		}
		took = append(took, d)
	}
	return spread(took, time.Since(begun)), nil
}

func connectOnce(to unix.Sockaddr) (took time.Duration, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	begun := time.Now()
	err = unix.Connect(fd, to)
	took = time.Since(begun)
	if err != nil {
		return 0, os.NewSyscallError("connect", err)
	}
	if err := exchange(descriptor(fd), make([]byte, 1)); err != nil {
		return 0, err
	}
	return took, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// descriptor reads and writes a blocking socket.
type descriptor int

// Read implements io.Reader, but for its end.
func (d descriptor) Read(p []byte) (int, error) { return unix.Read(int(d), p) }

// Write implements io.Writer, but for a short one.
func (d descriptor) Write(p []byte) (int, error) { return unix.Write(int(d), p) }

func sockaddr(to netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
}

// network is the i-th of 2^22 distinct /24 networks that are spread over
// 128.0.0.0/2, where neither loopback nor a network of the bed is: an odd
// multiplier permutes the 22-bit numbers.
func network(i int) netip.Prefix {
	n := uint32(i)*0x9e3779b1&(1<<22-1) | 1<<23
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 16), byte(n >> 8), byte(n)}), 24)
}

// classifications times connect(2) to addresses in the first o.Counter networks,
// none of which can be reached: what is left is the system call, and the hook if
// there is one. The median is that of one connect().
func classifications(o order) (answer, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return answer{}, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)

	r := rand.New(rand.NewPCG(1, uint64(o.Counter)))
	const batch = 256
	var took []time.Duration
	begun := time.Now()
	for len(took) == 0 || time.Since(begun) < o.For {
		var to [batch]unix.SockaddrInet4
		for i := range to {
			to[i] = *sockaddr(netip.AddrPortFrom(network(r.IntN(o.Counter)).Addr().Next(), 443))
		}
		start := time.Now()
		for i := range to {
			if err := unix.Connect(fd, &to[i]); err != unix.ENETUNREACH {
				return answer{}, errors.Join(errReachable, err)
			}
		}
		took = append(took, time.Since(start)/batch)
	}
	return spread(took, time.Since(begun)), nil
}

var errReachable = errors.New("connect to a network without a route")

// connectFigure is how long connect() takes, in microseconds.
type connectFigure struct {
	Contender string  `json:"contender"`
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
	Added     float64 `json:"added_p50_us"` // median of the rounds' differences to the one that it is compared with
	AddedTo   string  `json:"added_to"`
}

// compareConnects times connect() with and without hooks: to the same target by
// the same way, and, for acquired flows, beside a connect() over loopback, which
// is what theirs become.
func (b *bed) compareConnects(t *testing.T, p pace) []connectFigure {
	startChild(t, b.near, "", "target", "target", "1")
	loopback := b.contender("direct").via(netip.MustParseAddr("127.0.0.1"))
	loopback.name = "loopback"
	runners := []contender{b.contender("direct"), b.contender("bypassed"), loopback, b.contender("acquired")}
	against := map[string]string{"bypassed": "direct", "loopback": "direct", "acquired": "loopback"}

	medians, p99s := make(map[string][]float64), make(map[string][]float64)
	for round := range p.connects {
		for i := range runners {
			c := runners[(i+round)%len(runners)]
			a := c.application.ask(t, order{Do: "connect", To: c.at(portEcho), For: p.slice / 2})
			medians[c.name] = append(medians[c.name], a.Median.Seconds()*1e6)
			p99s[c.name] = append(p99s[c.name], a.P99.Seconds()*1e6)
		}
	}
	var figures []connectFigure
	for _, c := range runners {
		f := connectFigure{Contender: c.name, P50: median(medians[c.name]), P99: median(p99s[c.name])}
		if f.AddedTo = against[c.name]; f.AddedTo != "" {
			f.Added = median(differences(medians[c.name], medians[f.AddedTo]))
		}
		figures = append(figures, f)
		if f.P50 <= 0 || f.P99 <= 0 {
			t.Errorf("%+v, want times", f)
		}
	}
	return figures
}
