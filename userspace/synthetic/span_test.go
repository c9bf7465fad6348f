package synthetic

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

func TestNonsenseIsNoPool(t *testing.T) {
	for _, test := range []struct {
		name, ipv4, ipv6 string
		reserved         []string
		want             string
	}{
		{"no prefix", "", "", nil, "8 to 30 bits"},
		{"one address", "6.6.0.0/32", "", nil, "8 to 30 bits"},
		{"two addresses", "6.6.0.0/31", "", nil, "8 to 30 bits"},
		{"half of everything", "6.0.0.0/7", "", nil, "8 to 30 bits"},
		{"IPv6 for IPv4", "fd00:6::/64", "", nil, "8 to 30 bits"},
		{"IPv4-mapped", "::ffff:6.6.0.0/112", "", nil, "8 to 30 bits"},
		{"host bits", "6.6.0.1/16", "", nil, "host bits"},
		{"loopback", "127.0.0.0/8", "", nil, "unicast"},
		{"multicast", "224.0.0.0/8", "", nil, "unicast"},
		{"link-local", "169.254.0.0/16", "", nil, "unicast"},
		{"IPv4 for IPv6", "6.6.0.0/16", "6.7.0.0/16", nil, "at most 112 bits"},
		{"IPv6 too small", "6.6.0.0/16", "fd00:6::/113", nil, "at most 112 bits"},
		{"IPv6 host bits", "6.6.0.0/16", "fd00:6::1/64", nil, "host bits"},
		{"IPv6 multicast", "6.6.0.0/16", "ff02::/64", nil, "unicast"},
		{"all reserved", "6.6.0.0/30", "", []string{"6.6.0.1", "6.6.0.2"}, "reserved"},
	} {
		t.Run(test.name, func(t *testing.T) {
			opts := Options{Path: filepath.Join(t.TempDir(), "log")}
			opts.IPv4, _ = netip.ParsePrefix(test.ipv4)
			opts.IPv6, _ = netip.ParsePrefix(test.ipv6)
			for _, addr := range test.reserved {
				opts.Reserved = append(opts.Reserved, netip.MustParseAddr(addr))
			}
			p, err := Open(opts)
			if err == nil {
				p.Close()
				t.Fatalf("a pool of %s and %s is open", test.ipv4, test.ipv6)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %q, want one with %q", err, test.want)
			}
		})
	}
}

func TestPoolHasTheAddressesOfItsPrefix(t *testing.T) {
	for _, test := range []struct {
		ipv4, ipv6    string
		capacity      int
		first, last   string
		first6, last6 string
	}{
		{"6.6.0.0/30", "fd00::/126", 2, "6.6.0.1", "6.6.0.2", "fd00::1", "fd00::2"},
		{"6.6.0.64/29", "fd00::40/125", 6, "6.6.0.65", "6.6.0.70", "fd00::41", "fd00::46"},
		{"6.6.0.0/16", "fd00:6::/64", 65534, "6.6.0.1", "6.6.255.254", "fd00:6::1", "fd00:6::fffe"},
		{"10.0.0.0/8", "fd00:6::/48", MaxNames, "10.0.0.1", "10.255.255.254", "fd00:6::1", "fd00:6::ff:fffe"},
	} {
		t.Run(test.ipv4, func(t *testing.T) {
			s, err := newSpan(netip.MustParsePrefix(test.ipv4), netip.MustParsePrefix(test.ipv6), nil)
			if err != nil {
				t.Fatal(err)
			}
			if s.capacity != test.capacity {
				t.Errorf("capacity is %d, want %d", s.capacity, test.capacity)
			}
			for n, want := range map[uint32][2]string{s.first: {test.first, test.first6}, s.last: {test.last, test.last6}} {
				a := s.address(n)
				if got := [2]string{a.IPv4.String(), a.IPv6.String()}; got != want {
					t.Errorf("number %d has %v, want %v", n, got, want)
				}
				for _, addr := range []netip.Addr{a.IPv4, a.IPv6, netip.AddrFrom16(a.IPv4.As16())} {
					if got, ok := s.number(addr); !ok || got != n || !s.contains(addr) {
						t.Errorf("%s is number %d, %t; want %d", addr, got, ok, n)
					}
				}
			}
			before, after := s.address(s.first-1), s.address(s.last+1)
			for _, addr := range []netip.Addr{before.IPv4, before.IPv6, after.IPv4, after.IPv6} {
				if n, ok := s.number(addr); ok || !s.contains(addr) {
					t.Errorf("%s is number %d; want none, but in the pool", addr, n)
				}
			}
			for _, addr := range []netip.Addr{{}, before.IPv4.Prev(), after.IPv4.Next(), before.IPv6.Prev(), netip.MustParseAddr("fd01::1")} {
				if n, ok := s.number(addr); ok || s.contains(addr) {
					t.Errorf("%s is number %d, want it outside of the pool", addr, n)
				}
			}
		})
	}
}

func TestPoolWithoutIPv6HasNone(t *testing.T) {
	s, err := newSpan(wide, netip.Prefix{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a := s.address(1); a.IPv6.IsValid() {
		t.Errorf("number 1 has %s", a.IPv6)
	}
	for _, addr := range []string{"::1", "::", "fd00::1"} {
		if n, ok := s.number(netip.MustParseAddr(addr)); ok || s.contains(netip.MustParseAddr(addr)) {
			t.Errorf("%s is number %d", addr, n)
		}
	}
}

func TestReservedAddressesAreSkipped(t *testing.T) {
	pl := newPlace(t, tiny)
	pl.IPv6 = ula
	for _, addr := range []string{"6.6.0.1", "fd00:6::3", "::ffff:6.6.0.5", "6.6.0.0", "192.0.2.1", "fd00:6::1:1"} {
		pl.Reserved = append(pl.Reserved, netip.MustParseAddr(addr))
	}
	p := pl.pool(t)
	if got := p.Stats().Capacity; got != 3 {
		t.Errorf("capacity is %d, want 3", got)
	}
	wantAssigned(t, p, "a", "6.6.0.2")
	wantAssigned(t, p, "b", "6.6.0.4")
	wantAssigned(t, p, "c", "6.6.0.6")
	wantRefused(t, p, "d", ErrFull)
	if name, ok := p.Name(netip.MustParseAddr("6.6.0.1")); ok {
		t.Errorf("a reserved address is that of %q", name)
	}
}

func TestLargestPoolHasABoundOnNames(t *testing.T) {
	pl := newPlace(t, netip.MustParsePrefix("10.0.0.0/8"))
	p := pl.pool(t)
	if got := p.Stats().Capacity; got != MaxNames {
		t.Errorf("capacity is %d, want %d", got, MaxNames)
	}
	p.mu.Lock()
	p.next = p.span.last
	p.mu.Unlock()
	wantAssigned(t, p, "last", "10.255.255.254")
	wantAssigned(t, p, "first", "10.0.0.1")
}
