package synthetic

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fill gives each address of a tiny pool to a name: n1 has 6.6.0.1, and so on.
func fill(t *testing.T, p *Pool) {
	t.Helper()
	for i := range 6 {
		wantAssigned(t, p, fmt.Sprintf("n%d", i+1), fmt.Sprintf("6.6.0.%d", i+1))
	}
}

func TestFullPoolRefusesNamesForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t, tiny).pool(t)
		fill(t, p)
		time.Sleep(Rest)
		wantRefused(t, p, "new", ErrFull)
		wantRefused(t, p, "new", ErrFull)
		if s := p.Stats(); s.Full != 2 || s.Used != 6 || s.Capacity != 6 {
			t.Errorf("%+v", s)
		}
		wantAssigned(t, p, "n2", "6.6.0.2") // keeps it, and uses it
		time.Sleep(time.Nanosecond)
		wantAssigned(t, p, "new", "6.6.0.1")
		wantAssigned(t, p, "newer", "6.6.0.3")
		wantNames(t, p, "6.6.0.1 new", "6.6.0.2 n2", "6.6.0.3 newer", "6.6.0.4 n4", "6.6.0.5 n5", "6.6.0.6 n6")
		if _, ok := p.Lookup("n1"); ok {
			t.Error("n1 still has an address")
		}
		wantAssigned(t, p, "n1", "6.6.0.4") // another one
	})
}

func TestAnswersKeepAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t, tiny).pool(t)
		fill(t, p)
		if !p.Answered("n1", time.Now().Add(30*time.Second)) {
			t.Error("n1 has no address")
		}
		p.Answered("N1.", time.Now().Add(10*time.Second)) // not less
		p.Answered("n2", time.Now().Add(-time.Hour))      // not before now
		time.Sleep(Rest + 1)
		for i, want := range []string{"6.6.0.2", "6.6.0.3", "6.6.0.4", "6.6.0.5", "6.6.0.6"} {
			wantAssigned(t, p, fmt.Sprintf("new%d", i), want)
		}
		wantRefused(t, p, "new5", ErrFull)
		time.Sleep(30*time.Second - 1)
		wantRefused(t, p, "new5", ErrFull)
		time.Sleep(time.Nanosecond)
		wantAssigned(t, p, "new5", "6.6.0.1")
	})
}

func TestFlowsKeepAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := newPlace(t, tiny)
		pl.IPv6 = ula
		p := pl.pool(t)
		fill(t, p)
		first, ok1 := p.Hold(netip.MustParseAddr("6.6.0.1"))
		second, ok2 := p.Hold(netip.MustParseAddr("fd00:6::1"))
		if !ok1 || !ok2 || p.Flows("n1") != 2 || p.Stats().Held != 1 {
			t.Errorf("hold: %t, %t, %d flows, %+v", ok1, ok2, p.Flows("n1"), p.Stats())
		}
		p.Answered("n1", time.Now())
		time.Sleep(100 * time.Hour)
		first()
		first() // changes nothing
		if p.Flows("n1") != 1 || p.Stats().Held != 1 {
			t.Errorf("%d flows, %+v", p.Flows("n1"), p.Stats())
		}
		for i := range 5 {
			wantAssigned(t, p, fmt.Sprintf("new%d", i), fmt.Sprintf("6.6.0.%d", i+2))
		}
		wantRefused(t, p, "other", ErrFull)
		second()
		if p.Flows("n1") != 0 || p.Stats().Held != 0 {
			t.Errorf("%d flows, %+v", p.Flows("n1"), p.Stats())
		}
		time.Sleep(Rest)
		wantRefused(t, p, "other", ErrFull)
		time.Sleep(time.Nanosecond)
		wantAssigned(t, p, "other", "6.6.0.1")
	})
}

func TestEveryNameIsJustUsedAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := newPlace(t, tiny)
		p := pl.pool(t)
		fill(t, p)
		time.Sleep(100 * time.Hour)
		closePool(t, p)
		p = pl.pool(t)
		time.Sleep(Rest + answerLife)
		wantRefused(t, p, "new", ErrFull)
		time.Sleep(time.Nanosecond)
		wantAssigned(t, p, "new", "6.6.0.1")
	})
}

func TestClockThatRunsBackFreesNothing(t *testing.T) {
	pl := newPlace(t, tiny)
	clock := newClock()
	pl.Now = clock.Now
	p := pl.pool(t)
	clock.advance(100 * time.Hour)
	fill(t, p)
	clock.advance(-100 * time.Hour)
	wantAssigned(t, p, "n1", "6.6.0.1")
	clock.advance(100*time.Hour + Rest)
	wantRefused(t, p, "new", ErrFull)
	clock.advance(1)
	wantAssigned(t, p, "new", "6.6.0.1")
}

// TestAddressIsItsOwnersUntilTheNextIsOnDisk looks into the middle of a change.
func TestAddressIsItsOwnersUntilTheNextIsOnDisk(t *testing.T) {
	for name, outcome := range map[string]error{"recorded": nil, "not recorded": errBroken} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pl := newPlace(t, tiny)
				p := pl.pool(t)
				fill(t, p)
				time.Sleep(Rest + 1)
				resume := make(chan struct{})
				pl.disk.set(func(operation string) error {
					if operation == "sync" {
						<-resume
						return outcome
					}
					return nil
				})
				var group sync.WaitGroup
				group.Go(func() {
					if _, err := p.Assign(t.Context(), "new"); !errors.Is(err, outcome) {
						t.Errorf("assign: %v, want %v", err, outcome)
					}
				})
				synctest.Wait()
				addr := netip.MustParseAddr("6.6.0.1")
				if owner, ok := p.Name(addr); ok {
					t.Errorf("the address is that of %q, and about to change hands", owner)
				}
				wantCount(t, p, 6)
				if _, ok := p.Hold(addr); ok {
					t.Error("an address that is about to change hands is held")
				}
				if _, ok := p.Lookup("n1"); ok {
					t.Error("an address that is about to change hands is found")
				}
				for _, name := range []string{"n1", "new"} {
					if p.Answered(name, time.Now()) {
						t.Errorf("%s is answered while nobody knows who has the address", name)
					}
				}
				var back string
				group.Go(func() {
					got, err := p.Assign(t.Context(), "n1") // waits for what comes of it
					if back = got.IPv4.String(); err != nil {
						t.Errorf("assign n1: %v", err)
					}
				})
				synctest.Wait()
				if back != "" {
					t.Errorf("n1 has %s before it is known which", back)
				}
				pl.disk.set(nil)
				close(resume)
				group.Wait()
				if outcome != nil {
					wantNames(t, p, "6.6.0.1 n1", "6.6.0.2 n2", "6.6.0.3 n3", "6.6.0.4 n4", "6.6.0.5 n5", "6.6.0.6 n6")
				} else {
					wantNames(t, p, "6.6.0.1 new", "6.6.0.2 n1", "6.6.0.3 n3", "6.6.0.4 n4", "6.6.0.5 n5", "6.6.0.6 n6")
				}
			})
		})
	}
}

func TestLogIsCompactedWhileInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := newPlace(t, tiny)
		pl.slack = 1
		p := pl.pool(t)
		live := int64(len(logOf("6.6.0.1 n000", "6.6.0.1 n000", "6.6.0.1 n000", "6.6.0.1 n000", "6.6.0.1 n000", "6.6.0.1 n000")))
		largest := int64(0)
		for i := range 100 {
			assign(t, p, fmt.Sprintf("n%03d", i))
			largest = max(largest, p.Stats().LogSize)
			time.Sleep(Rest)
		}
		if largest < 2*live || largest > 4*live {
			t.Errorf("the log grew to %d bytes; %d of them live", largest, live)
		}
		var want []string
		for name, addr := range p.All() {
			want = append(want, addr.IPv4.String()+" "+name)
		}
		if s := p.Stats(); s.LogSize != int64(len(pl.text(t))) {
			t.Errorf("the log has %d bytes, %+v", len(pl.text(t)), s)
		}
		closePool(t, p)
		wantNames(t, pl.pool(t), want...)
	})
}
