package e2e

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// exchange runs the datagram scenario in the bed's namespace and cgroup and
// returns its lines, one for each step.
func (b *bed) exchange(t testing.TB, socket string, steps ...string) []string {
	t.Helper()
	out := testutil.Child(t, b.ns, b.cgroup, "datagram", append([]string{socket}, steps...)...)
	return strings.Split(strings.TrimSuffix(out, "\n"), "\n")
}

// datagramScenario makes one UDP socket and does with it what its arguments say.
// The first one describes the socket: its family and options, divided by commas.
// The others are steps; each prints a line: what came of it, or the errno.
func datagramScenario(args []string, stdout io.Writer) error {
	d := datagram{}
	if err := d.open(args[0]); err != nil {
		return err
	}
	defer unix.Close(d.fd)
	for _, text := range args[1:] {
		step, argument, _ := strings.Cut(text, "=")
		line, err := d.do(step, argument)
		if errno, ok := err.(syscall.Errno); ok {
			line, err = unix.ErrnoName(errno), nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		if _, err := fmt.Fprintln(stdout, line); err != nil {
			return err
		}
	}
	return nil
}

// datagram is one UDP socket of an application.
type datagram struct {
	fd  int
	is6 bool
}

// answerTimeout is for answers that come, on a busy machine.
const answerTimeout = 20 * time.Second

func (d *datagram) open(socket string) error {
	options := strings.Split(socket, ",")
	family := unix.AF_INET
	if d.is6 = options[0] == "udp6"; d.is6 {
		family = unix.AF_INET6
	}
	var err error
	if d.fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return os.NewSyscallError("socket", err)
	}
	limit := unix.NsecToTimeval(int64(answerTimeout))
	if err := unix.SetsockoptTimeval(d.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	for _, option := range options[1:] {
		name, argument, _ := strings.Cut(option, "=")
		if _, err := d.do(name, argument); err != nil {
			return fmt.Errorf("%s: %w", option, err)
		}
	}
	return nil
}

// do does one step. Every error of the system call in question is an errno.
func (d *datagram) do(step, argument string) (string, error) {
	switch step {
	case "device":
		return "bound", unix.BindToDevice(d.fd, argument)
	case "unbind":
		return "unbound", unix.BindToDevice(d.fd, "")
	case "leave-by": // as systemd-resolved says by which device to send
		return "set", d.unicastInterface(argument)
	case "source":
		return "bound", unix.Bind(d.fd, d.sockaddr(argument))
	case "reuse":
		return "shared", unix.SetsockoptInt(d.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	case "twin":
		return d.twin(argument)
	case "whole": // or not at all: as programs that look for the path's MTU do
		return "set", d.refuseFragments()
	case "mark":
		return "marked", unix.SetsockoptInt(d.fd, unix.SOL_SOCKET, unix.SO_MARK, 77)
	case "connect":
		return "connected", unix.Connect(d.fd, d.sockaddr(argument))
	case "peer":
		peer, err := unix.Getpeername(d.fd)
		return "peer " + addrPortOf(peer).String(), err
	case "send":
		return "sent", unix.Sendto(d.fd, []byte("question"), 0, d.sockaddr(argument))
	case "write":
		_, err := unix.Write(d.fd, []byte("question"))
		return "written", err
	case "read":
		return d.read()
	case "ask":
		if err := unix.Sendto(d.fd, []byte("question"), 0, d.sockaddr(argument)); err != nil {
			return "", err
		}
		return d.read()
	}
	return "", fmt.Errorf("step %q is not known", step)
}

// twin asks a server from another socket of the same source port.
func (d *datagram) twin(server string) (string, error) {
	own, err := unix.Getsockname(d.fd)
	if err != nil {
		return "", err
	}
	other := datagram{}
	source := fmt.Sprintf("source=0.0.0.0:%d", addrPortOf(own).Port())
	if err := other.open("udp4,reuse," + source); err != nil {
		return "", err
	}
	defer unix.Close(other.fd)
	if err := unix.Connect(other.fd, other.sockaddr(server)); err != nil {
		return "", err
	}
	if _, err := unix.Write(other.fd, []byte("question")); err != nil {
		return "", err
	}
	return other.read()
}

// read tells from where what came. The own process is written as such.
func (d *datagram) read() (string, error) {
	buf := make([]byte, 512)
	var n int
	var from unix.Sockaddr
	err := uninterrupted(func() (err error) {
		n, from, err = unix.Recvfrom(d.fd, buf, 0)
		return err
	})
	if err != nil {
		return "", err
	}
	own := fmt.Sprintf("pid %d ", os.Getpid())
	return addrPortOf(from).String() + " says " + strings.ReplaceAll(string(buf[:n]), own, "own pid "), nil
}

func (d *datagram) sockaddr(text string) unix.Sockaddr {
	to := netip.MustParseAddrPort(text)
	if !d.is6 {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

// refuseFragments sets IP_MTU_DISCOVER or IPV6_MTU_DISCOVER.
func (d *datagram) refuseFragments() error {
	if d.is6 {
		return unix.SetsockoptInt(d.fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
	}
	return unix.SetsockoptInt(d.fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
}

// unicastInterface sets IP_UNICAST_IF or IPV6_UNICAST_IF, which take the index in
// network byte order.
func (d *datagram) unicastInterface(name string) error {
	index, err := interfaceIndex(name)
	if err != nil {
		return err
	}
	wire := int(int32(index << 24)) // of a small number
	if d.is6 {
		return unix.SetsockoptInt(d.fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_IF, wire)
	}
	return unix.SetsockoptInt(d.fd, unix.IPPROTO_IP, unix.IP_UNICAST_IF, wire)
}
