// Package e2e tests bpfacq as a whole, in network namespaces, cgroups and BPF
// file systems of its own.
package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/agent"
	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/listen"
	"github.com/bpfacq/bpfacq/userspace/netns"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// bed is a datapath in force in a namespace and a cgroup, with an acceptor that
// answers each acquired flow with its record instead of carrying it.
type bed struct {
	ns       *netns.Namespace
	cgroup   string
	pins     string
	datapath *loader.Datapath
	port4    uint16 // of the acceptor on 127.0.0.1
}

// newBed makes a bed; it acquires nothing before apply.
func newBed(t testing.TB) *bed {
	t.Helper()
	b := &bed{
		ns:     testutil.Netns(t),
		cgroup: testutil.Cgroup(t),
		pins:   filepath.Join(testutil.BPFFS(t), "bpfacq"),
	}
	b.load(t, loader.Options{})
	b.startAcceptor(t)
	return b
}

// tune sets a value below /proc/sys/net of the bed's namespace.
func (b *bed) tune(t testing.TB, name, value string) {
	t.Helper()
	err := b.ns.Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bed) load(t testing.TB, opts loader.Options) {
	t.Helper()
	opts.Cgroup, opts.Pins = b.cgroup, b.pins
	d, err := loader.Load(opts)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	b.datapath = d
	t.Cleanup(func() {
		if err := d.Detach(); err != nil {
			t.Error(err)
		}
		d.Close()
	})
}

// startAcceptor starts the acceptor in the bed's namespace and cgroup (the hook
// that hands records over runs for the cgroup of the listener) and announces it.
func (b *bed) startAcceptor(t testing.TB) {
	t.Helper()
	cmd := testutil.ScenarioCommand(t, "acceptor", loader.MapsDir(b.pins))
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	testutil.Start(t, b.ns, b.cgroup, cmd)
	var port6 uint16
	if _, err := fmt.Fscan(stdout, &b.port4, &port6); err != nil {
		t.Fatalf("read ports of the acceptor: %v", err)
	}
	b.announce(t, maps.Agent{Port4: b.port4, Port6: port6})
}

// acceptorScenario listens, prints its ports, and answers until it is killed.
func acceptorScenario(args []string, stdout io.Writer) error {
	m, err := maps.Open(args[0])
	if err != nil {
		return err
	}
	defer m.Close()
	l, err := listen.Listen(context.Background(), listen.Options{Origin: origin{m}})
	if err != nil {
		return err
	}
	v4, v6 := l.AddrPorts()
	if _, err := fmt.Fprintln(stdout, v4.Port(), v6.Port()); err != nil {
		return err
	}
	l.Serve(context.Background(), answer)
	return nil
}

type origin struct{ maps *maps.Maps }

func (o origin) Lookup(fd int) (flow.Record, error) {
	r, err := o.maps.Accepted(fd)
	return flow.Record(r), err
}

func (b *bed) announce(t testing.TB, self maps.Agent) {
	t.Helper()
	err := b.ns.Do(func() (err error) {
		self.NetnsCookie, err = b.datapath.NetnsCookie()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	now, err := maps.Monotonic()
	if err != nil {
		t.Fatal(err)
	}
	self.LeaseUntil = now + time.Hour
	if err := b.datapath.Maps.SetAgent(self); err != nil {
		t.Fatal(err)
	}
}

// answer tells the application what the kernel remembered of its flow, and then
// waits for it to close.
func answer(conn *net.TCPConn, rec flow.Record) {
	defer conn.Close()
	if rec.Kind == flow.KindQuery {
		fmt.Fprintf(conn, "%s query\n", rec.OrigDst)
	} else {
		fmt.Fprintf(conn, "%s rule %d generation %d\n", rec.OrigDst, rec.Rule, rec.Generation)
	}
	io.Copy(io.Discard, conn)
}

// apply compiles and loads a policy, and returns its generation.
func (b *bed) apply(t testing.TB, p *policy.Policy) uint32 {
	t.Helper()
	return b.store(t, compile(t, p))
}

func (b *bed) store(t testing.TB, tables *maps.Tables) uint32 {
	t.Helper()
	generation, err := b.datapath.Maps.Store(tables)
	if err != nil {
		t.Fatal(err)
	}
	return generation
}

func compile(t testing.TB, p *policy.Policy) *maps.Tables {
	t.Helper()
	compiled, err := policy.Compile(p, policy.Budget{})
	if err != nil {
		t.Fatal(err)
	}
	return agent.Tables(p, compiled)
}

// tunnel is a policy whose rules, in order, tunnel one prefix each.
func tunnel(prefixes ...string) *policy.Policy {
	p := &policy.Policy{
		Channels:  []policy.Channel{{ID: "private", Name: "Private"}},
		Protected: policy.NeverAcquired(),
	}
	for i, text := range prefixes {
		prefix := netip.MustParsePrefix(text)
		p.Rules = append(p.Rules, policy.Rule{
			ID: text, Order: float64(i), Channel: "private",
			Action: policy.ActionTunnel, Hardening: policy.HardeningBypass,
			Addrs: []policy.AddrRange{wholePrefix(prefix)},
			Ports: []policy.PortRange{policy.AllPorts()}, Protocols: policy.AnyProtocol,
		})
	}
	return p
}

func wholePrefix(p netip.Prefix) policy.AddrRange {
	last := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 1 << (7 - bit%8)
	}
	end, _ := netip.AddrFromSlice(last)
	return policy.AddrRange{First: p.Masked().Addr(), Last: end}
}

// counters returns what was counted since before, without the zeros.
func (b *bed) counters(t testing.TB, before map[string]uint64) map[string]uint64 {
	t.Helper()
	sums, err := b.datapath.Maps.Counters()
	if err != nil {
		t.Fatal(err)
	}
	now := make(map[string]uint64)
	for c, n := range sums {
		if n != before[c.String()] {
			now[c.String()] = n - before[c.String()]
		}
	}
	return now
}

// handoffs is how many records wait for a listener.
func (b *bed) handoffs(t testing.TB) int {
	t.Helper()
	d, err := b.datapath.Maps.Dump("handoff")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err := range d.Rows {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}
