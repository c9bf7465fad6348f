package datagram

import (
	"net/netip"
	"testing"
	"time"
)

// keyOf is one of many flows of a source.
func keyOf(source byte, n int) Key {
	return Key{
		Source:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, source}), uint16(1000+n)),
		OrigDst: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, 1}), 53),
	}
}

func put(t *testing.T, table *table, key Key, now int64) (evicted []*carried) {
	t.Helper()
	f, fresh, evicted := table.add(key, now, func() *carried {
		f := &carried{key: key}
		f.used.Store(now)
		return f
	})
	if f == nil || !fresh {
		t.Fatalf("no room for %v", key)
	}
	return evicted
}

func TestRoomIsMadeByTheLongestIdleOfWhoHasMost(t *testing.T) {
	second := int64(time.Second)
	table := newTable(Limits{Flows: 10})
	for i := range 3 {
		put(t, table, keyOf(1, i), int64(i)) // the longest idle, of who has few
	}
	for i := range 7 {
		put(t, table, keyOf(2, i), int64(10+i))
	}
	table.find(keyOf(2, 0)).used.Store(10 * second) // alive
	evicted := put(t, table, keyOf(3, 0), 11*second)
	if len(evicted) != 6 {
		t.Fatalf("%d flows made room, want the six idle ones of the second source", len(evicted))
	}
	for i, f := range evicted {
		if f.key != keyOf(2, i+1) {
			t.Errorf("number %d to go is %v, want %v", i, f.key, keyOf(2, i+1))
		}
	}
	if table.find(keyOf(2, 0)) == nil || table.find(keyOf(1, 0)) == nil || table.stats().Evicted != 6 {
		t.Errorf("a live flow or one of who has few is gone; stats %+v", table.stats())
	}
}

func TestLargeTableSeldomLooksForRoom(t *testing.T) {
	const limit = 1 << 14
	table := newTable(Limits{Flows: limit})
	for i := range limit {
		put(t, table, keyOf(1, i), 0)
	}
	if evicted := put(t, table, keyOf(1, limit), evictable); len(evicted) != limit/evictShare {
		t.Errorf("%d flows made room, want %d", len(evicted), limit/evictShare)
	}
}

func TestLiveFlowsNeverMakeRoom(t *testing.T) {
	table := newTable(Limits{Flows: 2})
	put(t, table, keyOf(1, 0), 0)
	put(t, table, keyOf(1, 1), 0)
	none := func() *carried { t.Error("a flow is made without room"); return nil }
	for now := int64(0); now < evictable; now += evictable / 4 {
		if f, _, evicted := table.add(keyOf(2, 0), now, none); f != nil || evicted != nil {
			t.Errorf("at %v there was room", time.Duration(now))
		}
	}
	if s := table.stats(); s.Refused != 4 || s.Flows != 2 {
		t.Errorf("stats are %+v", s)
	}
	if evicted := put(t, table, keyOf(2, 0), evictable+fullPause); len(evicted) != 2 {
		t.Errorf("%d idle flows made room, want 2", len(evicted))
	}
}

func TestSourceTakesNoRoomFromThoseThatHaveLess(t *testing.T) {
	table := newTable(Limits{Flows: 6})
	put(t, table, keyOf(1, 0), 0)
	put(t, table, keyOf(1, 1), 0)
	now := evictable
	for i := range 4 {
		put(t, table, keyOf(2, i), now)
	}
	none := func() *carried { t.Error("a flow is made without room"); return nil }
	for range 2 {
		if f, _, evicted := table.add(keyOf(2, 4), now, none); f != nil || evicted != nil {
			t.Error("the source with four live flows took the room of two idle ones")
		}
	}
	if evicted := put(t, table, keyOf(3, 0), now); len(evicted) != 2 || evicted[0].key.Source.Addr() != keyOf(1, 0).Source.Addr() {
		t.Errorf("for a new source %d flows made room, want both idle ones", len(evicted))
	}
	put(t, table, keyOf(3, 1), now)
	now += evictable
	if evicted := put(t, table, keyOf(2, 4), now); len(evicted) != 4 {
		t.Errorf("%d flows made room, want all idle ones of the source itself", len(evicted))
	}
	if s := table.stats(); s.Refused != 2 || s.Evicted != 6 || s.Flows != 3 {
		t.Errorf("stats are %+v", s)
	}
}

func TestFlowsExpireByWhatTheyAre(t *testing.T) {
	table := newTable(Limits{Idle: 30 * time.Second, StreamIdle: 180 * time.Second})
	for i := range 3 {
		put(t, table, keyOf(1, i), 0)
	}
	table.find(keyOf(1, 1)).answers.Store(streamAnswers)
	table.find(keyOf(1, 2)).spent.Store(true)
	for _, step := range []struct {
		at   time.Duration
		want []int
	}{{time.Second - 1, nil}, {time.Second, []int{2}}, {30*time.Second - 1, nil}, {30 * time.Second, []int{0}},
		{180*time.Second - 1, nil}, {180 * time.Second, []int{1}}} {
		gone := table.expire(int64(step.at))
		if len(gone) != len(step.want) {
			t.Fatalf("at %v %d flows are gone, want %d", step.at, len(gone), len(step.want))
		}
		for i, f := range gone {
			if f.key != keyOf(1, step.want[i]) {
				t.Errorf("at %v %v is gone, want number %d", step.at, f.key, step.want[i])
			}
		}
	}
	if s := table.stats(); s.Expired != 2 || s.Flows != 0 {
		t.Errorf("stats are %+v, want two that expired: the spent one had failed", s)
	}
}

func TestShutTableTakesNoFlow(t *testing.T) {
	table := newTable(Limits{})
	put(t, table, keyOf(1, 0), 0)
	if all := table.shut(); len(all) != 1 {
		t.Errorf("%d flows, want one", len(all))
	}
	if f, _, _ := table.add(keyOf(1, 1), 0, func() *carried { return &carried{} }); f != nil {
		t.Error("a flow was added after the end")
	}
}
