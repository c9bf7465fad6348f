package synthetic

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if runChild() {
		return
	}
	goleak.VerifyTestMain(m)
}

func TestNameHasOneAddress(t *testing.T) {
	pl := newPlace(t, wide)
	pl.IPv6 = ula
	p := pl.pool(t)
	addr, err := p.Assign(t.Context(), "Build.Corp.Example.")
	if err != nil {
		t.Fatal(err)
	}
	want := Address{netip.MustParseAddr("6.6.0.1"), netip.MustParseAddr("fd00:6::1")}
	if addr != want {
		t.Errorf("the address is %v, want %v", addr, want)
	}
	wantAssigned(t, p, "build.corp.example", "6.6.0.1")
	wantAssigned(t, p, "test.corp.example", "6.6.0.2")
	for _, a := range []netip.Addr{want.IPv4, want.IPv6, netip.MustParseAddr("::ffff:6.6.0.1")} {
		if name, ok := p.Name(a); !ok || name != "build.corp.example" {
			t.Errorf("%s is that of %q, %t", a, name, ok)
		}
	}
	if found, ok := p.Lookup("BUILD.corp.example."); !ok || found != want {
		t.Errorf("look up: %v, %t; want %v", found, ok, want)
	}
	wantNames(t, p, "6.6.0.1 build.corp.example", "6.6.0.2 test.corp.example")
}

func TestUnknownNamesAndAddressesHaveNothing(t *testing.T) {
	p := newPlace(t, wide).pool(t)
	assign(t, p, "a")
	for _, name := range []string{"b", "", ".", "a.."} {
		if addr, ok := p.Lookup(name); ok || p.Flows(name) != 0 {
			t.Errorf("%q has %v", name, addr)
		}
		if p.Answered(name, time.Now()) {
			t.Errorf("%q is answered", name)
		}
	}
	for _, addr := range []netip.Addr{{}, netip.MustParseAddr("6.6.0.2"), netip.MustParseAddr("6.7.0.1"), netip.MustParseAddr("::1")} {
		if name, ok := p.Name(addr); ok {
			t.Errorf("%s is that of %q", addr, name)
		}
		release, ok := p.Hold(addr)
		if ok {
			t.Errorf("%s is held", addr)
		}
		release()
	}
	if !p.Contains(netip.MustParseAddr("6.6.0.2")) || p.Contains(netip.MustParseAddr("6.7.0.1")) {
		t.Error("the pool does not know its own addresses")
	}
	if s := p.Stats(); s.Used != 1 || s.Held != 0 {
		t.Errorf("%+v", s)
	}
}

func TestWhatIsNoNameGetsNoAddress(t *testing.T) {
	p := newPlace(t, wide).pool(t)
	long := strings.Repeat(strings.Repeat("x", 49)+".", 5) // 250 bytes
	wantAssigned(t, p, long+"abc", "6.6.0.1")
	for _, name := range []string{"", ".", "a..b", ".a", `a\`, `\999`, strings.Repeat("x", 64), long + "abcd"} {
		wantRefused(t, p, name, ErrName)
	}
	wantNames(t, p, "6.6.0.1 "+long+"abc")
}

func TestLongestNameIsRecorded(t *testing.T) {
	name := strings.Repeat(strings.Repeat(`\000`, 49)+".", 5) + `\000\000\000`
	pl := newPlace(t, netip.MustParsePrefix("203.113.255.248/29"))
	p := pl.pool(t)
	wantAssigned(t, p, name, "203.113.255.249")
	closePool(t, p)
	wantNames(t, pl.pool(t), "203.113.255.249 "+name)
}

// TestConcurrentNamesShareAWrite holds up the first write until all other names
// have gathered.
func TestConcurrentNamesShareAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := newPlace(t, wide)
		p := pl.pool(t)
		resume := make(chan struct{})
		pl.disk.set(func(operation string) error {
			if operation == "sync" {
				<-resume
			}
			return nil
		})
		before := pl.disk.syncs
		var group sync.WaitGroup
		group.Go(func() { wantAssigned(t, p, "first", "6.6.0.1") })
		synctest.Wait()
		for i := range 200 {
			group.Go(func() { assign(t, p, fmt.Sprintf("n%d", i%100)) }) // each by two
		}
		synctest.Wait()
		if name, ok := p.Name(netip.MustParseAddr("6.6.0.1")); ok {
			t.Errorf("%s has an address that is not on disk", name)
		}
		if _, ok := p.Lookup("first"); ok {
			t.Error("an address that is not on disk is found")
		}
		if release, ok := p.Hold(netip.MustParseAddr("6.6.0.1")); ok {
			release()
			t.Error("an address that is not on disk is held")
		}
		wantCount(t, p, 0)
		resume <- struct{}{}
		synctest.Wait()
		wantCount(t, p, 1)
		close(resume)
		group.Wait()
		wantCount(t, p, 101)
		if n := pl.disk.syncs - before; n != 2 {
			t.Errorf("the disk was written to %d times, want 2", n)
		}
		if s := p.Stats(); s.Syncs != 2 || s.Used != 101 || s.LogSize != int64(len(pl.text(t))) || s.LogErr != nil {
			t.Errorf("%+v", s)
		}
	})
}

// wantCount counts the names that the pool shows.
func wantCount(t *testing.T, p *Pool, want int) {
	t.Helper()
	n := 0
	for range p.All() {
		n++
	}
	if n != want {
		t.Errorf("the pool has %d names, want %d", n, want)
	}
}

func TestCallerNeedNotWaitForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := newPlace(t, wide)
		p := pl.pool(t)
		resume := make(chan struct{})
		pl.disk.set(func(string) error { <-resume; return nil })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if addr, err := p.Assign(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("assign: %v, %v; want the context's error", addr, err)
		}
		close(resume)
		synctest.Wait()
		wantNames(t, p, "6.6.0.1 a")
	})
}

func TestPoolCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := newPlace(t, wide)
		p := pl.pool(t)
		resume := make(chan struct{})
		pl.disk.set(func(string) error { <-resume; return nil })
		var group sync.WaitGroup
		group.Go(func() { wantAssigned(t, p, "a", "6.6.0.1") })
		synctest.Wait()
		group.Go(func() { closePool(t, p) })
		synctest.Wait()
		wantRefused(t, p, "b", ErrClosed)
		if _, err := Open(pl.Options); !errors.Is(err, ErrInUse) {
			t.Errorf("open a pool that is in use: %v, want ErrInUse", err)
		}
		close(resume) // what is under way ends
		group.Wait()
		closePool(t, p) // again
		wantAssigned(t, p, "a", "6.6.0.1")
		wantRefused(t, p, "b", ErrClosed)
		release, ok := p.Hold(netip.MustParseAddr("6.6.0.1"))
		if !ok {
			t.Error("a known address is not held")
		}
		release()
		wantNames(t, pl.pool(t), "6.6.0.1 a")
	})
}

func TestFolderMustExist(t *testing.T) {
	pl := newPlace(t, wide)
	pl.Path = pl.Path + "/log"
	if p, err := Open(pl.Options); err == nil {
		closePool(t, p)
		t.Error("a pool without a folder is open")
	}
}

func TestPoolIsUsedConcurrently(t *testing.T) {
	pl := newPlace(t, netip.MustParsePrefix("6.6.0.0/26"))
	pl.slack = 1
	clock := newClock()
	pl.Now = clock.Now
	p := pl.pool(t)
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := range 100 {
				name := fmt.Sprintf("n%d", (i*7+worker*13)%90) // more than fit
				addr, err := p.Assign(t.Context(), name)
				if err != nil && !errors.Is(err, ErrFull) {
					t.Errorf("assign %s: %v", name, err)
				}
				release, held := p.Hold(addr.IPv4)
				owner, _ := p.Name(addr.IPv4)
				again, _ := p.Lookup(owner)
				if held && again.IPv4 != addr.IPv4 {
					t.Errorf("%s is that of %s, which has %s", addr.IPv4, owner, again.IPv4)
				}
				answered := p.Answered(name, clock.Now().Add(time.Second))
				if held && owner == name && !answered {
					t.Errorf("%s is not answered, and %s is held", name, addr.IPv4)
				}
				release()
				clock.advance(2 * time.Minute)
			}
		})
	}
	group.Wait()
	var want []string
	for name, addr := range p.All() {
		want = append(want, addr.IPv4.String()+" "+name)
	}
	wantNames(t, p, want...)
	if s := p.Stats(); s.Held != 0 || s.Used != s.Capacity || s.LogErr != nil {
		t.Errorf("%+v", s)
	}
	closePool(t, p)
	wantNames(t, pl.pool(t), want...)
}
