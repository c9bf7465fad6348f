package relay

import "sync"

// Sizes of buffers, in bytes, and their classes, from 0. A bulk flow reaches
// the largest after three full reads.
const (
	smallestBuffer = 1 << 10
	largestBuffer  = 64 << 10
	bufferStep     = 4
	largestClass   = 3
)

// buffers are the pools of a relay, one per class of size. The zero value is
// ready.
type buffers struct {
	pools [largestClass + 1]sync.Pool
}

// buffer is held only while bytes are in flight, or are waited for.
type buffer struct {
	bytes []byte
	class int
}

func (b *buffers) get(class int) *buffer {
	if buf, ok := b.pools[class].Get().(*buffer); ok {
		return buf
	}
	size := smallestBuffer
	for range class {
		size *= bufferStep
	}
	return &buffer{bytes: make([]byte, size), class: class}
}

func (b *buffers) put(buf *buffer) { b.pools[buf.class].Put(buf) }

// classFor returns the class for the next read after one of n bytes: the
// smallest that holds twice as much. So buffers follow the traffic up at once,
// and down again when it ebbs.
func classFor(n int) int {
	class := 0
	for size := smallestBuffer; size < 2*n && size < largestBuffer; size *= bufferStep {
		class++
	}
	return class
}
