package bench

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/maps"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/agent"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// classification is what a policy of a size costs.
type classification struct {
	Prefixes int     `json:"prefixes"`
	Compile  float64 `json:"compile_ms"`
	Load     float64 `json:"load_ms"`   // into the kernel, checked and in force
	Plain    float64 `json:"plain_ns"`  // connect() without hooks to where no route leads
	Hooked   float64 `json:"hooked_ns"` // the same with hooks
	Added    float64 `json:"added_ns"`  // median of the rounds' differences
}

// classify measures connect() under policies of growing size, to addresses that
// are spread over their prefixes, all of which pass.
func (b *bed) classify(t *testing.T, p pace) []classification {
	t.Helper()
	cgroup := testutil.Cgroup(t)
	d, err := loader.Load(loader.Options{Cgroup: cgroup, Pins: filepath.Join(testutil.BPFFS(t), "bpfacq")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Detach(); err != nil {
			t.Error(err)
		}
		d.Close()
	})
	b.announce(t, d)
	plain, hooked := b.contender("direct").application, b.startApplication(t, b.near, cgroup)

	var all []classification
	for _, n := range p.prefixes {
		c := load(t, d, n)
		var without, with []float64
		o := order{Do: "classify", Counter: n, For: p.slice / 5}
		for range p.connects {
			without = append(without, float64(plain.ask(t, o).Median))
			with = append(with, float64(hooked.ask(t, o).Median))
		}
		c.Plain, c.Hooked, c.Added = median(without), median(with), median(differences(with, without))
		if c.Plain <= 0 || c.Hooked <= 0 || c.Load <= 0 || c.Compile <= 0 {
			t.Errorf("%+v, want times", c)
		}
		all = append(all, c)
	}
	return all
}

// announce tells the programs of an agent in the near namespace that stays.
func (b *bed) announce(t *testing.T, d *loader.Datapath) {
	t.Helper()
	cookie, err := b.near.Cookie()
	if err != nil {
		t.Fatal(err)
	}
	now, err := maps.Monotonic()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Maps.SetAgent(maps.Agent{NetnsCookie: cookie, Port4: 1, LeaseUntil: now + time.Hour}); err != nil {
		t.Fatal(err)
	}
}

// load puts a policy of ten Bypass rules over n networks in force.
func load(t *testing.T, d *loader.Datapath, n int) classification {
	t.Helper()
	const rules = 10
	p := &policy.Policy{Protected: policy.NeverAcquired()}
	for i := range rules {
		p.Rules = append(p.Rules, policy.Rule{
			ID: fmt.Sprintf("rule-%d", i), Order: float64(i), Action: policy.ActionBypass,
			Ports: []policy.PortRange{policy.AllPorts()}, Protocols: policy.AnyProtocol,
		})
	}
	for i := range n {
		last := network(i).Addr().As4()
		last[3] = 0xff
		rule := &p.Rules[i%rules]
		rule.Addrs = append(rule.Addrs, policy.AddrRange{First: network(i).Addr(), Last: netip.AddrFrom4(last)})
	}

	begun := time.Now()
	compiled, err := policy.Compile(p, policy.Budget{})
	if err != nil {
		t.Fatal(err)
	}
	c := classification{Prefixes: n, Compile: milliseconds(time.Since(begun))}
	begun = time.Now()
	if _, err := d.Maps.Store(agent.Tables(p, compiled)); err != nil {
		t.Fatal(err)
	}
	c.Load = milliseconds(time.Since(begun))
	return c
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }
