package loader_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/enclave"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// patience is how long anything may take.
const patience = 30 * time.Second

// carrying is a host whose uplink leads to a network, and whose packets to
// 192.0.2.0/24 and 2001:db8::/32 go to an enclave.
type carrying struct {
	*uplinkBed
	*loader.Datapath
	l3      bool
	enclave *enclave.Enclave
	sockets loader.Sockets
	tcp     map[string]net.Listener
	udp     map[string]*net.UDPConn
}

// ether makes up0 a device with neighbours that leads to a network.
func (b *uplinkBed) ether(t *testing.T) {
	t.Helper()
	b.remove(t, b.device)
	far := netns.End{Namespace: testutil.Netns(t), Name: "up0"}
	near := netns.End{Namespace: b.ns, Name: "up0"}
	for _, family := range [][3]string{{"10.9.0.2/24", "10.9.0.1/24", "0.0.0.0/0"}, {"fd09::2/64", "fd09::1/64", "::/0"}} {
		via := netip.MustParsePrefix(family[1])
		near.Addrs, far.Addrs = append(near.Addrs, netip.MustParsePrefix(family[0])), append(far.Addrs, via)
		near.Routes = append(near.Routes, netns.Route{Prefix: netip.MustParsePrefix(family[2]), Via: via.Addr()})
	}
	testutil.Veth(t, near, far)
}

// tun makes up0 a device whose packets have no link-layer header. Nobody reads
// them: what leaves by it is lost.
func (b *uplinkBed) tun(t *testing.T) {
	t.Helper()
	b.remove(t, b.device)
	tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, Mode: netlink.TUNTAP_MODE_TUN, Queues: 1, NonPersist: true}
	b.do(t, func() error { return netlink.LinkAdd(tun) }) // a descriptor of tun is of the thread's namespace
	t.Cleanup(func() { tun.Fds[0].Close() })
	if err := b.handle.LinkSetUp(tun); err != nil {
		t.Fatal(err)
	}
	for _, family := range [][2]string{{"10.9.0.2/24", "0.0.0.0/0"}, {"fd09::2/64", "::/0"}} {
		err := errors.Join(b.ns.AddAddr("up0", netip.MustParsePrefix(family[0])),
			b.ns.AddRoute("up0", netns.Route{Prefix: netip.MustParsePrefix(family[1])}))
		if err != nil {
			t.Fatal(err)
		}
	}
}

// carry acquires the packets of up0.
func carry(t *testing.T, b *uplinkBed) *carrying {
	t.Helper()
	c := &carrying{uplinkBed: b, tcp: make(map[string]net.Listener), udp: make(map[string]*net.UDPConn)}
	up, err := b.handle.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	b.device, c.l3 = up.Attrs().Index, up.Type() == "tuntap"

	c.Datapath = b.packets(t)
	b.do(t, func() error {
		c.enclave, err = enclave.Open(enclave.Options{MTU: up.Attrs().MTU, MAC: up.Attrs().HardwareAddr})
		return err
	})
	t.Cleanup(func() { c.enclave.Close() })
	c.listen(t)
	closer, err := c.AttachEnclave(c.enclave.Namespace().Fd(), c.sockets)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closer.Close() })
	b.do(t, func() error { return c.AttachPair(c.enclave.Device()) })
	c.serve(t)
	b.attach(t, c.Datapath, b.device)
	return c
}

// listen opens the sockets of the enclave, at whatever port.
func (c *carrying) listen(t *testing.T) {
	t.Helper()
	inside := c.enclave.Namespace()
	for network, fd := range map[string]*int{"tcp4": &c.sockets.TCP4, "tcp6": &c.sockets.TCP6} {
		l, err := inside.Listen(t.Context(), network, ":0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		*fd = descriptor(t, l.(*net.TCPListener))
		c.tcp[network] = l
	}
	for network, fd := range map[string]*int{"udp4": &c.sockets.UDP4, "udp6": &c.sockets.UDP6} {
		conn, err := inside.ListenPacket(t.Context(), network, ":0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		c.udp[network] = conn.(*net.UDPConn)
		*fd = descriptor(t, c.udp[network])
	}
}

func descriptor(t *testing.T, of syscall.Conn) (fd int) {
	t.Helper()
	raw, err := of.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(n uintptr) { fd = int(n) }); err != nil {
		t.Fatal(err)
	}
	return fd
}

// serve makes an agent of the test.
func (c *carrying) serve(t *testing.T) {
	t.Helper()
	tables := tunnelAll(maps.HardeningBlock)
	six := netip.MustParsePrefix("2001:db8::/32")
	tables.IPv6 = maps.Rows{Len: 1, All: func(yield func(netip.Prefix, uint32) bool) { yield(six, 0) }}
	store(t, c.Datapath, tables)
	now, err := maps.Monotonic()
	if err != nil {
		t.Fatal(err)
	}
	agent := maps.Agent{LeaseUntil: now + time.Hour, Packets: true, Containers: true}
	c.do(t, func() (err error) {
		agent.NetnsCookie, err = c.NetnsCookie()
		return err
	})
	if err := c.Maps.SetAgent(agent); err != nil {
		t.Fatal(err)
	}
	uplink := maps.Uplink{Index: c.device, Pair: c.enclave.Device(), PairMAC: c.enclave.PeerMAC(), L3: c.l3}
	if err := c.Maps.SetUplink(uplink); err != nil {
		t.Fatal(err)
	}
}

// The sockets get what comes to any destination, and answers from there arrive.
func TestPacketsOfAnUplinkReachTheSocketsOfItsEnclave(t *testing.T) {
	for kind, make := range map[string]func(*uplinkBed, *testing.T){"ethernet": (*uplinkBed).ether, "tun": (*uplinkBed).tun} {
		t.Run(kind, func(t *testing.T) {
			onBothWays(t, func(t *testing.T, b *uplinkBed) {
				make(b, t)
				c := carry(t, b)
				for network, destination := range map[string]string{"udp4": "192.0.2.7:4433", "udp6": "[2001:db8::7]:4433"} {
					c.askDatagram(t, network, destination)
				}
				for network, destination := range map[string]string{"tcp4": "192.0.2.7:80", "tcp6": "[2001:db8::7]:80"} {
					c.connectBound(t, network, destination)
				}
				c.noneElsewhere(t)
			})
		})
	}
}

// askDatagram sends a datagram and gets an answer.
func (c *carrying) askDatagram(t *testing.T, network, destination string) {
	t.Helper()
	client, err := c.ns.DialContext(t.Context(), network, destination)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	// An answer comes from where the client sent to.
	answerer, err := c.enclave.Namespace().ListenPacket(t.Context(), network, destination)
	if err != nil {
		t.Fatal(err)
	}
	defer answerer.Close()
	limit := time.Now().Add(patience)
	if err := errors.Join(client.SetDeadline(limit), c.udp[network].SetDeadline(limit)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 16)
	n, from, err := c.udp[network].ReadFrom(got)
	if err != nil || string(got[:n]) != "hello" || from.String() != client.LocalAddr().String() {
		t.Fatalf("%s: the enclave gets %q from %v, %v", network, got[:n], from, err)
	}
	if _, err := answerer.WriteTo([]byte("world"), from); err != nil {
		t.Fatal(err)
	}
	if n, err = client.Read(got); err != nil || string(got[:n]) != "world" {
		t.Errorf("%s: the client gets %q, %v", network, got[:n], err)
	}
}

// connectBound makes a connection that the socket path does not take, since its
// socket is bound to a device. It is accepted with its destination.
func (c *carrying) connectBound(t *testing.T, network, destination string) {
	t.Helper()
	var client net.Conn
	c.do(t, func() (err error) {
		dialer := net.Dialer{Timeout: patience, Control: bindToUplink}
		client, err = dialer.DialContext(t.Context(), network, destination)
		return err
	})
	defer client.Close()
	accepted, err := c.tcp[network].Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if got := accepted.LocalAddr().String(); got != destination {
		t.Errorf("accepted for %s, want %s", got, destination)
	}
	limit := time.Now().Add(patience)
	if err := errors.Join(client.SetDeadline(limit), accepted.SetDeadline(limit)); err != nil {
		t.Fatal(err)
	}
	if _, err := accepted.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "hello" {
		t.Errorf("%s: the client gets %q, %v", network, got, err)
	}
}

// noneElsewhere checks that nothing happened that should not.
func (c *carrying) noneElsewhere(t *testing.T) {
	t.Helper()
	counters, err := c.Maps.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for counter, n := range counters {
		switch name := counter.String(); name {
		case "packet_block", "packet_unplaced", "reply_drop", "bug_packet", "bug_relay_socket":
			if n != 0 {
				t.Errorf("counter %s is %d", name, n)
			}
		}
	}
}

func bindToUplink(_, _ string, raw syscall.RawConn) (err error) {
	return errors.Join(raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), "up0") }), err)
}

func TestEachEnclaveHasSocketsOfItsOwn(t *testing.T) {
	b := &uplinkBed{bed: newBed(t)}
	d := b.packets(t)
	first, second := testutil.Netns(t), testutil.Netns(t)
	for _, ns := range []*netns.Namespace{first, second} {
		closer, err := d.AttachEnclave(ns.Fd(), loader.Sockets{})
		if err != nil {
			t.Fatal(err)
		}
		defer closer.Close()
	}
	if closer, err := d.AttachEnclave(first.Fd(), loader.Sockets{TCP4: 1 << 20}); err == nil {
		t.Error("a descriptor that is no socket is handed over")
		closer.Close()
	}
}
