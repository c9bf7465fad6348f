package loader

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/bpf"
	"github.com/bpfacq/bpfacq/maps"
)

// NetnsCookie is the kernel's number of this process's network namespace.
func (d *Datapath) NetnsCookie() (uint64, error) {
	cookie, err := socketNetns()
	if errors.Is(err, unix.ENOPROTOOPT) {
		return d.netnsCookieByHook()
	}
	return cookie, err
}

// socketNetns asks a socket for the cookie of its network namespace. Kernels that
// cannot tell say ENOPROTOOPT.
func socketNetns() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)

	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read SO_NETNS_COOKIE: %w", err)
	}
	return cookie, nil
}

// netnsCookieByHook learns the cookie where the socket option is missing (it is
// 5.14's): the connect hook writes it on each stamped socket that it sees.
// connect() of a UDP socket runs the hook and sends nothing.
func (d *Datapath) netnsCookieByHook() (uint64, error) {
	detach, err := d.hookOwnCgroup()
	if err != nil {
		return 0, err
	}
	defer detach()

	dialer := net.Dialer{Control: d.Exempt}
	conn, err := dialer.Dial("udp4", "127.0.0.1:9")
	if err != nil {
		return 0, fmt.Errorf("connect a stamped socket: %w", err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("read file descriptor: %w", err)
	}
	var cookie uint64
	ctlErr := raw.Control(func(fd uintptr) { cookie, err = d.Maps.StampedNetns(int(fd)) })
	if err := errors.Join(ctlErr, err); err != nil {
		return 0, err
	}
	if cookie == 0 {
		return 0, errNoCookie
	}
	return cookie, nil
}

// hookOwnCgroup makes the connect hook see this process's sockets. Where it
// already does, a second run of it would take the first one's records away.
func (d *Datapath) hookOwnCgroup() (detach func() error, err error) {
	own, err := OwnCgroup()
	if err != nil {
		return nil, err
	}
	if below(own, d.Cgroup) {
		return func() error { return nil }, nil
	}
	program, err := d.connect4()
	if err != nil {
		return nil, err
	}
	defer program.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{
		Path: own, Attach: ebpf.AttachCGroupInet4Connect, Program: program,
	})
	if err != nil {
		return nil, explain("attach to own cgroup", err)
	}
	return l.Close, nil
}

// connect4 opens the program that the live connect4 link runs.
func (d *Datapath) connect4() (*ebpf.Program, error) {
	path := hook{pinName: maps.PinName(bpf.SocketProgBpfacqConnect4)}.pin(linksDir(d.pins.live()))
	h, err := readHook(path)
	if err != nil {
		return nil, err
	}
	program, err := ebpf.NewProgramFromID(ebpf.ProgramID(h.ProgramID))
	if err != nil {
		return nil, fmt.Errorf("open program %s: %w", h.Program, err)
	}
	return program, nil
}

// Exempt is a net.Dialer's Control function: it stamps a socket as the agent's
// own before it connects. A socket that cannot be stamped must not connect.
func (d *Datapath) Exempt(_, _ string, c syscall.RawConn) error {
	var err error
	ctlErr := c.Control(func(fd uintptr) { err = d.Maps.Stamp(int(fd)) })
	return errors.Join(ctlErr, err)
}
