package datagram

import (
	"slices"
	"testing"
)

func TestEmptyDatagramsDoNotWaitWithoutBound(t *testing.T) {
	f := &carried{relay: &Relay{}}
	const count = 10_000
	for range count {
		f.wait([][]byte{nil})
	}
	if len(f.queue) != queueSize/waitingCost || f.relay.dropped.Load() != count-queueSize/waitingCost {
		t.Errorf("%d wait and %d are dropped, want %d that wait", len(f.queue), f.relay.dropped.Load(), queueSize/waitingCost)
	}
}

func TestWhatAllFlowsHaveWaitingIsBounded(t *testing.T) {
	r := &Relay{}
	batch := slices.Repeat([][]byte{make([]byte, 1<<10)}, 200)
	flows := make([]*carried, 500)
	for i := range flows {
		flows[i] = &carried{relay: r}
		flows[i].wait(batch)
		if r.waiting.Load() > waitingSize {
			t.Fatalf("with %d flows %d bytes wait", i+1, r.waiting.Load())
		}
	}
	if len(flows[0].queue) != len(batch) || len(flows[len(flows)-1].queue) != 0 {
		t.Errorf("of the first flow %d wait and of the last %d, want all of the first", len(flows[0].queue), len(flows[len(flows)-1].queue))
	}
	for _, f := range flows {
		f.forget()
	}
	if n := r.waiting.Load(); n != 0 {
		t.Errorf("%d bytes wait after the last flow", n)
	}
}
