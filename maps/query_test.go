package maps

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/bpf"
)

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func TestPoolsAndPortsAreAnnouncedBesideTheLease(t *testing.T) {
	m := load(t)
	now, err := Monotonic()
	if err != nil {
		t.Fatal(err)
	}
	first := Agent{LeaseUntil: now + time.Hour, NetnsCookie: 1, Port4: 2, Port6: 3, DNSPort: 5300, DNSPort6: 5301}
	if err := m.SetAgent(first); err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]netip.Prefix{
		prefixes("6.6.0.0/16", "fd66:0:0:1::/64"), prefixes("10.128.0.0/9"), prefixes("6.6.6.6/32", "fd66::8/125"), nil,
		prefixes("6.6.0.0/16"),
	} {
		if err := m.SetDNS(6000, 6001, want); err != nil {
			t.Fatal(err)
		}
		if got, err := m.Pools(); err != nil || !slices.Equal(got, want) {
			t.Errorf("pools are %v, %v; want %v", got, err, want)
		}
		a := first
		a.DNSPort, a.DNSPort6 = 6000, 6001
		if got, err := m.Agent(); err != nil || got != a {
			t.Errorf("agent is %+v, %v; want %+v", got, err, a)
		}
	}
	// A successor keeps them: an address of the pool must not get out meanwhile.
	if err := m.SetAgent(Agent{LeaseUntil: now + time.Hour, NetnsCookie: 1}); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Pools(); err != nil || !slices.Equal(got, prefixes("6.6.0.0/16")) {
		t.Errorf("pools of the next agent are %v, %v", got, err)
	}
	if got, err := m.Agent(); err != nil || got.DNSPort != 0 || got.DNSPort6 != 0 {
		t.Errorf("next agent is %+v, %v; want no ports for queries", got, err)
	}
	for _, bad := range [][]netip.Prefix{
		prefixes("6.6.0.0/16", "6.7.0.0/16"), prefixes("fd66::/64", "fd67::/64"), prefixes("0.0.0.0/0"), {netip.Prefix{}},
	} {
		if err := m.SetDNS(1, 2, bad); err == nil {
			t.Errorf("pools %v are announced", bad)
		}
	}
	if got, err := m.Agent(); err != nil || got.DNSPort != 0 {
		t.Errorf("agent after bad pools is %+v, %v", got, err)
	}
}

func TestServersAreKeptAsLongAsADeviceHasTheirAddress(t *testing.T) {
	m := load(t)
	servers := func() (all []string) {
		var own [16]byte
		var peers bpf.SocketPeers
		elements := m.objects.BpfacqServer.Iterate()
		for elements.Next(&own, &peers) {
			all = append(all, netip.AddrFrom16(own).Unmap().String())
		}
		if err := elements.Err(); err != nil {
			t.Fatal(err)
		}
		slices.Sort(all)
		return all
	}
	steps := []struct {
		name    string
		change  func() error
		devices int
		servers []string
	}{
		{"first", func() error { return m.SetDevice(2, addr("192.0.2.1"), addr("2001:db8::1")) }, 1, []string{"192.0.2.1", "2001:db8::1"}},
		{"again", func() error { return m.SetDevice(2, addr("192.0.2.1"), addr("2001:db8::1")) }, 1, []string{"192.0.2.1", "2001:db8::1"}},
		{"second with the same address", func() error { return m.SetDevice(3, addr("192.0.2.1"), netip.Addr{}) }, 2, []string{"192.0.2.1", "2001:db8::1"}},
		{"first changes", func() error { return m.SetDevice(2, addr("192.0.2.2"), netip.Addr{}) }, 2, []string{"192.0.2.1", "192.0.2.2"}},
		{"second goes", func() error { return m.DeleteDevice(3) }, 1, []string{"192.0.2.2"}},
		{"second goes again", func() error { return m.DeleteDevice(3) }, 1, []string{"192.0.2.2"}},
		{"first goes", func() error { return m.DeleteDevice(2) }, 0, nil},
	}
	for _, step := range steps {
		if err := step.change(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if diff := cmp.Diff(step.servers, servers()); diff != "" {
			t.Errorf("%s: servers:\n%s", step.name, diff)
		}
		d, err := m.Dump("device")
		if err != nil {
			t.Fatal(err)
		}
		devices := 0
		for range d.Rows {
			devices++
		}
		if devices != step.devices {
			t.Errorf("%s: %d devices, want %d", step.name, devices, step.devices)
		}
	}
}

func TestSocketThatReceivedNoQueryHasNone(t *testing.T) {
	m := load(t)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if q, err := m.Query(fd); !errors.Is(err, ErrNoRecord) {
		t.Errorf("query is %+v, %v; want ErrNoRecord", q, err)
	}
	if q, err := m.Query(-1); err == nil || errors.Is(err, ErrNoRecord) {
		t.Errorf("query of no socket is %+v, %v; want another error", q, err)
	}
}
