package uplink

import (
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func TestUplinksAreFollowedAsTheyComeAndGo(t *testing.T) {
	b := newBed(t)
	f := b.follow(t)
	f.awaitNames(t, "")
	cable := b.veth(t, "eth0")
	b.route(t, cable, "0.0.0.0/0", "10.9.0.1")
	f.awaitNames(t, "eth0")
	wifi := b.veth(t, "wlan0")
	b.route(t, wifi, "::/0", "fe80::1")
	f.awaitNames(t, "eth0 wlan0")
	b.do(t, b.handle.LinkDel(cable)) // what is gone does not linger
	f.awaitNames(t, "wlan0")
}

func TestChangesOfADeviceAreDelivered(t *testing.T) {
	b := newBed(t)
	up := b.veth(t, "up0")
	b.route(t, up, "::/0", "fe80::1")
	f := b.follow(t)
	index := up.Attrs().Index
	f.await(t, "the uplink", func(all []Uplink) bool { return len(all) == 1 && all[0].MTU == 1500 })

	b.do(t, b.handle.LinkSetMTU(up, 9000))
	f.await(t, "its MTU", func(all []Uplink) bool { return len(all) == 1 && all[0].MTU == 9000 })
	mac := net.HardwareAddr{0x02, 1, 2, 3, 4, 5}
	b.do(t, b.handle.LinkSetHardwareAddr(up, mac))
	f.await(t, "its address", func(all []Uplink) bool { return len(all) == 1 && all[0].MAC.String() == mac.String() })

	// A rename needs the device to be down on old kernels, which is a flap, too.
	b.do(t, b.handle.LinkSetDown(up))
	b.do(t, b.handle.LinkSetName(up, "renamed0"))
	f.await(t, "its name", func(all []Uplink) bool { return len(all) == 1 && all[0].Name == "renamed0" && all[0].Index == index })
}

func TestReplacedDeviceIsAnotherUplink(t *testing.T) {
	b := newBed(t)
	old := b.veth(t, "up0")
	f := b.follow(t, "up0")
	f.awaitNames(t, "up0")
	b.do(t, b.handle.LinkDel(old))
	b.veth(t, "up0")
	f.await(t, "the new device", func(all []Uplink) bool { return len(all) == 1 && all[0].Index != old.Attrs().Index })
}

func TestUplinkOutlivesAFlap(t *testing.T) {
	b := newBed(t)
	b.linger = time.Hour
	up := b.veth(t, "up0")
	b.route(t, up, "0.0.0.0/0", "10.9.0.1")
	f := b.follow(t)
	f.awaitNames(t, "up0")
	for range 3 {
		b.do(t, b.handle.LinkSetDown(up)) // which takes the route away
		f.awaitNames(t, "up0")
		b.do(t, b.handle.LinkSetUp(up))
		f.awaitNames(t, "up0")
	}
	b.route(t, up, "0.0.0.0/0", "10.9.0.1")
	f.awaitNames(t, "up0")
}

func TestUplinkThatLostItsRoutesLeavesInTime(t *testing.T) {
	b := newBed(t)
	b.linger = 300 * time.Millisecond
	up := b.veth(t, "up0")
	route := b.route(t, up, "0.0.0.0/0", "10.9.0.1")
	f := b.follow(t)
	f.awaitNames(t, "up0")
	b.do(t, b.handle.RouteDel(route))
	f.awaitNames(t, "")
	b.route(t, up, "0.0.0.0/0", "10.9.0.1")
	f.awaitNames(t, "up0")
}

// What is back must not send before it is acquired from.
func TestUplinkThatIsDownStays(t *testing.T) {
	b := newBed(t)
	b.linger = time.Millisecond
	up := b.veth(t, "up0")
	route := b.route(t, up, "0.0.0.0/0", "10.9.0.1")
	f := b.follow(t)
	is := func(state string, away bool) {
		t.Helper()
		f.await(t, state, func(all []Uplink) bool { return len(all) == 1 && all[0].Away == away })
	}
	is("an uplink", false)
	b.do(t, b.handle.LinkSetDown(up))
	is("one that is down", true)
	f.Look() // after it has lingered
	is("one that is down for long", true)
	b.do(t, b.handle.LinkSetUp(up))
	b.do(t, b.handle.RouteAdd(route))
	is("one that is back", false)
}

func TestChangedPrefixesAreLookedAt(t *testing.T) {
	b := newBed(t)
	b.linger = 0
	b.route(t, b.veth(t, "up0"), "172.16.0.0/12", "10.9.0.1")
	f := b.follow(t)
	f.awaitNames(t, "")
	b.tunnel("172.20.0.0/16")
	f.Look()
	f.awaitNames(t, "up0")
	b.tunnel()
	f.Look()
	f.awaitNames(t, "")
}

// Hosts of containers make and remove devices all the time.
func TestManyChangesMakeFewLooks(t *testing.T) {
	b := newBed(t)
	b.route(t, b.veth(t, "up0"), "0.0.0.0/0", "10.9.0.1")
	f := b.follow(t)
	f.awaitNames(t, "up0")
	began, before := time.Now(), f.count.Load()
	for i := range 30 {
		name := fmt.Sprintf("veth%d", i)
		b.do(t, b.handle.LinkDel(b.veth(t, name)))
	}
	b.route(t, b.veth(t, "up1"), "::/0", "fe80::1")
	f.awaitNames(t, "up0 up1")
	if looks, most := f.count.Load()-before, int64(time.Since(began)/pause)+2; looks > most {
		t.Errorf("%d looks in %v, want at most %d", looks, time.Since(began), most)
	}
	if links, err := b.handle.LinkList(); err != nil || len(links) != 5 {
		t.Errorf("devices left: %d, %v", len(links), err)
	}
}

func TestLookThatFailedIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &Watcher{changed: make(chan struct{}, 1)}
		began := time.Now()
		w.rest(t.Context(), pause, true)
		if took := time.Since(began); took != pause+retry {
			t.Errorf("looks again after %v, want %v", took, pause+retry)
		}
	})
}
