package bench

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// patience is for one answer on a machine that is busy with something else.
const patience = 30 * time.Second

// applicationScenario is the application that makes flows, one order at a time.
// Its argument is how many flows it must be able to hold.
func applicationScenario(args []string, stdout io.Writer) error {
	flows, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	if err := raiseFiles(flows); err != nil {
		return err
	}
	var idle holder
	return obey(stdout, skills{
		"connections": connections,
		"round trips": roundTrips,
		"download":    download,
		"upload":      upload,
		"connect":     connects,
		"classify":    classifications,
		"hold":        idle.hold,
		"release":     idle.release,

		"datagram trips": datagramTrips,
		"datagrams up":   untilSome(sendDatagrams),
		"datagrams down": untilSome(receiveDatagrams),
	})
}

// dial makes a plain connection: keep-alives would add system calls of their
// own, and Dialer.DialTCP a bind(2) that looks for a port free for every target.
func dial(to netip.AddrPort) (*net.TCPConn, error) {
	dialer := net.Dialer{Timeout: patience, KeepAlive: -1}
	conn, err := dialer.Dial("tcp4", to.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// connections makes connections one after the other in each of o.Flows
// goroutines. One connection is: connect, one byte there and back, close.
func connections(o order) (answer, error) {
	var all errgroup.Group
	var n atomic.Int64
	begun := time.Now()
	for range o.Flows {
		all.Go(func() error {
			for n.Load() == 0 || time.Since(begun) < o.For {
				if err := connection(o.To); err != nil {
					return err
				}
				n.Add(1)
			}
			return nil
		})
	}
	err := all.Wait()
	return answer{Count: float64(n.Load()), Elapsed: time.Since(begun)}, err
}

func connection(to netip.AddrPort) error {
	conn, err := dial(to)
	if err != nil {
		return err
	}
	defer conn.Close()
	var b [1]byte
	return exchange(conn, b[:])
}

// exchange sends one byte to a target that echoes, and waits for it.
func exchange(conn io.ReadWriter, b []byte) error {
	if _, err := conn.Write(b); err != nil {
		return err
	}
	_, err := conn.Read(b)
	return err
}

// roundTrips sends one byte there and back, again and again, on one flow.
func roundTrips(o order) (answer, error) {
	conn, err := dial(o.To)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	var b [1]byte
	var took []time.Duration
	begun := time.Now()
	for last := begun; len(took) == 0 || last.Sub(begun) < o.Warm+o.For; {
		if err := exchange(conn, b[:]); err != nil {
			return answer{}, err
		}
		now := time.Now()
		if last.Sub(begun) >= o.Warm {
			took = append(took, now.Sub(last))
		}
		last = now
	}
	return spread(took, o.For), nil
}

// spread describes how long each of many things took.
func spread(took []time.Duration, elapsed time.Duration) answer {
	slices.Sort(took)
	return answer{
		Count: float64(len(took)), Elapsed: elapsed,
		Median: took[len(took)/2], P99: took[len(took)*99/100],
	}
}

const bufferSize = 256 << 10

// download reads all that o.Flows flows bring.
func download(o order) (answer, error) {
	return transfer(o, func(conn *net.TCPConn, buf []byte) (int, error) { return conn.Read(buf) })
}

// upload writes as much as o.Flows flows take.
func upload(o order) (answer, error) {
	return transfer(o, func(conn *net.TCPConn, buf []byte) (int, error) { return conn.Write(buf) })
}

// transfer counts the bytes that move between the end of the warming up and the
// end of the measured time, which a machine that is busy with something else may
// put off until there are some.
func transfer(o order, move func(*net.TCPConn, []byte) (int, error)) (answer, error) {
	var all errgroup.Group
	var conns []*net.TCPConn
	var moved atomic.Int64
	for range o.Flows {
		conn, err := dial(o.To)
		if err != nil {
			return answer{}, err
		}
		conns = append(conns, conn)
		all.Go(func() error {
			buf := make([]byte, bufferSize)
			for {
				n, err := move(conn, buf)
				moved.Add(int64(n))
				if err != nil {
					return err
				}
			}
		})
	}
	<-time.After(o.Warm)
	begun, before := time.Now(), moved.Load()
	for <-time.After(o.For); moved.Load() == before && time.Since(begun) < patience; {
		<-time.After(o.For)
	}
	a := answer{Count: float64(moved.Load() - before), Elapsed: time.Since(begun)}
	for _, conn := range conns {
		conn.SetLinger(0) // what is under way shall not disturb the next turn
		conn.Close()
	}
	if err := all.Wait(); !errors.Is(err, net.ErrClosed) {
		return a, fmt.Errorf("flow ended: %w", err)
	}
	return a, nil
}

// holder keeps flows that have said one byte each and now are silent.
type holder struct{ conns []*net.TCPConn }

func (h *holder) hold(o order) (answer, error) {
	h.conns = make([]*net.TCPConn, o.Flows)
	var all errgroup.Group
	all.SetLimit(32)
	begun := time.Now()
	for i := range h.conns {
		all.Go(func() (err error) {
			if h.conns[i], err = dial(o.To); err != nil {
				return err
			}
			var b [1]byte
			return exchange(h.conns[i], b[:])
		})
	}
	err := all.Wait()
	return answer{Count: float64(o.Flows), Elapsed: time.Since(begun)}, err
}

func (h *holder) release(order) (answer, error) {
	for _, conn := range h.conns {
		conn.Close()
	}
	h.conns = nil
	return answer{}, nil
}
