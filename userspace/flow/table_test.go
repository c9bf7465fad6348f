package flow

import (
	"slices"
	"sync"
	"testing"
)

// ids returns the numbers of the flows that are in state.
func ids(flows []Flow, state State) []uint64 {
	var got []uint64
	for _, f := range flows {
		if f.State == state {
			got = append(got, f.ID)
		}
	}
	return got
}

func TestSnapshotHasLiveAndRecentlyEndedFlowsInOrder(t *testing.T) {
	table := NewTable(3)
	var lives []*Live
	for range 40 {
		lives = append(lives, table.Open(testRecord))
	}
	for _, i := range []int{30, 7, 20, 11, 2} {
		lives[i].Close(Outcome{State: StateClosed})
	}
	flows := table.Snapshot()
	if !slices.IsSortedFunc(flows, func(a, b Flow) int { return int(a.ID) - int(b.ID) }) {
		t.Error("snapshot is not in the order of opening")
	}
	if got, want := ids(flows, StateClosed), []uint64{3, 12, 21}; !slices.Equal(got, want) {
		t.Errorf("ended flows are %v, want the last three: %v", got, want)
	}
	if active := ids(flows, StateActive); len(active) != 35 || len(flows) != 38 {
		t.Errorf("snapshot has %d flows, %d of them active; want 38 and 35", len(flows), len(active))
	}
}

func TestSnapshotOfAnEmptyTableIsEmpty(t *testing.T) {
	if flows := NewTable(0).Snapshot(); len(flows) != 0 {
		t.Errorf("snapshot has %d flows", len(flows))
	}
}

func TestTotalsCountEveryEndAndEveryByte(t *testing.T) {
	table := NewTable(1)
	for i, state := range []State{StateClosed, StateReset, StateRefused, StateFailed, 0} {
		live := table.Open(testRecord)
		live.AddSent(1 << i)
		live.AddReceived(100 << i)
		for range 2 {
			live.Close(Outcome{State: state})
		}
	}
	table.Open(testRecord).AddSent(1000)
	want := Totals{Active: 1, Closed: 1, Reset: 1, Refused: 1, Failed: 2, BytesSent: 1031, BytesReceived: 3100}
	if got := table.Totals(); got != want {
		t.Errorf("totals are %+v, want %+v", got, want)
	}
}

// A flow that ends while it is looked at must be seen once, and a metric that
// only counts up must not go down.
func TestReadersSeeEachFlowOnceWhileFlowsEnd(t *testing.T) {
	const flows, openers = 4000, 4
	table := NewTable(flows)
	var opening sync.WaitGroup
	for range openers {
		opening.Go(func() {
			for range flows / openers {
				live := table.Open(testRecord)
				live.AddSent(1)
				live.Close(Outcome{State: StateClosed})
			}
		})
	}
	done := make(chan struct{})
	go func() {
		opening.Wait()
		close(done)
	}()
	var last Totals
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		last = wantConsistent(t, table, last)
	}
	if last != (Totals{Closed: flows, BytesSent: flows}) {
		t.Errorf("totals are %+v", last)
	}
	if n := len(table.Snapshot()); n != flows {
		t.Errorf("snapshot has %d flows, want %d", n, flows)
	}
}

func wantConsistent(t *testing.T, table *Table, last Totals) Totals {
	t.Helper()
	before := table.Totals()
	seen := make(map[uint64]bool)
	for _, f := range table.Snapshot() {
		if seen[f.ID] {
			t.Fatalf("flow %d is in the snapshot twice", f.ID)
		}
		seen[f.ID] = true
	}
	if uint64(len(seen)) < before.Closed {
		t.Fatalf("snapshot has %d flows, but %d had ended before", len(seen), before.Closed)
	}
	if before.Closed < last.Closed || before.BytesSent < last.BytesSent {
		t.Fatalf("totals went from %+v to %+v", last, before)
	}
	return before
}

func BenchmarkOpenClose(b *testing.B) {
	table := NewTable(0)
	for range 10_000 {
		table.Open(testRecord)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			live := table.Open(testRecord)
			live.SetRoute(Route{Status: 200})
			live.AddSent(1)
			live.Close(Outcome{State: StateClosed})
		}
	})
}

func BenchmarkSnapshotOf10kLive(b *testing.B) {
	table := NewTable(0)
	for range 10_000 {
		table.Open(testRecord)
	}
	for b.Loop() {
		if n := len(table.Snapshot()); n != 10_000 {
			b.Fatal(n)
		}
	}
}

func TestTotalsAreKeptByProtocol(t *testing.T) {
	table := NewTable(1)
	ended, live := testRecord, testRecord
	ended.Protocol, live.Protocol = UDP, UDP
	udp := table.Open(ended)
	udp.AddSentDatagrams(2, 20)
	udp.AddReceivedDatagrams(3, 300)
	udp.Close(Outcome{State: StateClosed})
	table.Open(live).AddSentDatagrams(4, 5)
	table.Open(testRecord).AddSent(7)

	want := Totals{Active: 1, Closed: 1, BytesSent: 25, BytesReceived: 300, DatagramsSent: 6, DatagramsReceived: 3}
	if got := table.TotalsOf(UDP); got != want {
		t.Errorf("totals of UDP are %+v, want %+v", got, want)
	}
	if got, want := table.TotalsOf(TCP), (Totals{Active: 1, BytesSent: 7}); got != want {
		t.Errorf("totals of TCP are %+v, want %+v", got, want)
	}
	want.Active, want.BytesSent = 2, 32
	if got := table.Totals(); got != want {
		t.Errorf("totals are %+v, want %+v", got, want)
	}
}

func TestOpenedFlowsAreTold(t *testing.T) {
	var told []*Live
	table := NewTable(0)
	table.OnOpen(func(l *Live) { told = append(told, l) })
	first, second := table.Open(testRecord), table.Open(testRecord)
	first.Close(Outcome{State: StateClosed})
	if len(told) != 2 || told[0] != first || told[1] != second {
		t.Errorf("told of %v, want of both flows once", told)
	}
}
