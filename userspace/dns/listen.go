package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	bindTries     = 64      // for Ports consecutive ones that are free
	receiveBuffer = 4 << 20 // a burst of some thousand queries
)

// socket is one of the UDP sockets.
type socket struct {
	conn *net.UDPConn
	fd   int // valid while conn is open, which is while it is read from
	port uint16
}

// Listen binds the UDP sockets. They receive from nobody but this host, and
// nothing before Serve. A host without IPv6 gets IPv4 only.
func Listen(ctx context.Context, o Options) (*Server, error) {
	s := newServer(o)
	wish := o.FirstPort
	for range bindTries {
		err := s.bind(ctx, wish, o.Control)
		if err == nil {
			s.port = s.sockets[0].port
			return s, nil
		}
		s.closeSockets()
		if !errors.Is(err, syscall.EADDRINUSE) && wish == 0 {
			return nil, fmt.Errorf("listen for queries: %w", err)
		}
		wish = 0
	}
	return nil, fmt.Errorf("find %d consecutive UDP ports: %w", Ports, syscall.EADDRINUSE)
}

// bind binds all sockets from a port on, or from one of the kernel's choice.
func (s *Server) bind(ctx context.Context, first uint16, control controlFunc) error {
	network, host := "udp", "::"
	s.v6 = true
	for i := range Ports {
		config := net.ListenConfig{Control: before(control)}
		conn, err := config.ListenPacket(ctx, network, net.JoinHostPort(host, strconv.Itoa(int(first))))
		if i == 0 && errors.Is(err, syscall.EAFNOSUPPORT) {
			network, host = "udp4", "0.0.0.0"
			s.v6 = false
			conn, err = config.ListenPacket(ctx, network, net.JoinHostPort(host, strconv.Itoa(int(first))))
		}
		if err != nil {
			return err
		}
		bound, err := newSocket(conn.(*net.UDPConn))
		if err != nil {
			return errors.Join(err, conn.Close())
		}
		s.sockets = append(s.sockets, bound)
		if bound.port > 65535-Ports+1 && i == 0 {
			return syscall.EADDRINUSE
		}
		first = bound.port + 1
	}
	return nil
}

func newSocket(conn *net.UDPConn) (*socket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{conn: conn, port: conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()}
	return s, raw.Control(func(fd uintptr) { s.fd = int(fd) })
}

func (s *Server) closeSockets() error {
	var errs []error
	for _, socket := range s.sockets {
		errs = append(errs, socket.conn.Close())
	}
	s.sockets = nil
	return errors.Join(errs...)
}

type controlFunc = func(network, address string, c syscall.RawConn) error

// before does to a socket what must be done before it is bound: a packet that
// came earlier would not have met the filter.
func before(control controlFunc) controlFunc {
	return func(network, address string, c syscall.RawConn) error {
		var err error
		if failed := c.Control(func(fd uintptr) { err = prepare(int(fd)) }); failed != nil {
			return failed
		}
		if err != nil || control == nil {
			return err
		}
		return control(network, address, c)
	}
}

// prepare closes a socket to the network, asks for the address that each
// datagram was sent to, and makes room for bursts.
func prepare(fd int) error {
	filter, err := loopbackOnly()
	if err != nil {
		return fmt.Errorf("assemble filter: %w", err)
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, filter); err != nil {
		return os.NewSyscallError("setsockopt SO_ATTACH_FILTER", err)
	}
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return os.NewSyscallError("getsockopt SO_DOMAIN", err)
	}
	if domain == unix.AF_INET {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	} else {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	if err != nil {
		return os.NewSyscallError("setsockopt PKTINFO", err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		// Without the right to more there is as much as anybody may have.
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	return os.NewSyscallError("setsockopt SO_RCVBUF", err)
}

// loopbackOnly is a filter that takes what comes over lo, whose index is 1 in
// every network namespace.
func loopbackOnly() (*unix.SockFprog, error) {
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 1, SkipFalse: 1},
		bpf.RetConstant{Val: 1<<32 - 1},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}, nil
}
