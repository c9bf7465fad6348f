package relay

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBuffersFollowTheTraffic(t *testing.T) {
	var pools buffers
	var sizes []int
	for _, n := range []int{0, 1, 512, 513, 2 << 10, 2<<10 + 1, 8 << 10, 8<<10 + 1, 64 << 10, 1 << 30} {
		buf := pools.get(classFor(n))
		sizes = append(sizes, len(buf.bytes))
		pools.put(buf)
	}
	want := []int{1 << 10, 1 << 10, 1 << 10, 4 << 10, 4 << 10, 16 << 10, 16 << 10, 64 << 10, 64 << 10, 64 << 10}
	if diff := cmp.Diff(want, sizes); diff != "" {
		t.Errorf("sizes of buffers (-want +got):\n%s", diff)
	}
}
