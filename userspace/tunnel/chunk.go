package tunnel

import "sync"

// Receive buffers come in three sizes, in bytes, and are lent while bytes wait to
// be read: a quiet stream holds none.
const (
	smallChunk   = 2 << 10
	mediumChunk  = 16 << 10
	largeChunk   = 64 << 10
	chunkClasses = 3
)

// bulk is the number of received bytes after which a stream gets the largest
// chunks.
const bulk = 128 << 10

// chunk is a piece of a buffer. Bytes [r, w) are full.
type chunk struct {
	next  *chunk
	buf   []byte
	r, w  int
	class int // of its size, from 0
}

// chunkPool lends chunks.
type chunkPool struct {
	classes [chunkClasses]sync.Pool
}

func (p *chunkPool) get(class int) *chunk {
	if k, ok := p.classes[class].Get().(*chunk); ok {
		return k
	}
	size := [chunkClasses]int{smallChunk, mediumChunk, largeChunk}[class]
	return &chunk{buf: make([]byte, size), class: class}
}

func (p *chunkPool) put(k *chunk) {
	k.next, k.r, k.w = nil, 0, 0
	p.classes[k.class].Put(k)
}

// inbox holds what a stream has received and nobody has read yet. One
// goroutine fills it and one empties it; both work on the bytes outside the
// lock that guards the inbox, so a chunk in use is never given back.
type inbox struct {
	pool       *chunkPool
	head, tail *chunk
	size       int   // bytes between head and tail that are full
	total      int64 // bytes ever received
	filling    bool  // reserve was called, commit not yet
	emptying   bool  // peek was called, advance not yet
}

// reserve returns room for up to n bytes, at least one, for commit to follow.
func (b *inbox) reserve(n int) []byte {
	if b.tail == nil || b.tail.w == len(b.tail.buf) {
		k := b.pool.get(b.classFor(n))
		if b.tail == nil {
			b.head = k
		} else {
			b.tail.next = k
		}
		b.tail = k
	}
	b.filling = true
	room := b.tail.buf[b.tail.w:]
	return room[:min(n, len(room))]
}

func (b *inbox) classFor(n int) int {
	switch {
	case b.size == 0 && n <= smallChunk:
		return 0
	case b.total < bulk:
		return 1
	}
	return 2
}

// commit makes the first n bytes of what reserve returned readable.
func (b *inbox) commit(n int) {
	b.filling = false
	if b.tail == nil {
		return // dropped meanwhile
	}
	b.tail.w += n
	b.size += n
	b.total += int64(n)
	b.trim()
}

// peek returns the bytes that are next, for advance to follow. There are some.
func (b *inbox) peek() []byte {
	b.emptying = true
	return b.head.buf[b.head.r:b.head.w]
}

// advance gives the first n bytes of what peek returned back.
func (b *inbox) advance(n int) {
	b.emptying = false
	if b.head == nil {
		return // dropped meanwhile
	}
	b.head.r += n
	b.size -= n
	b.trim()
}

// trim gives empty chunks back, so that peek finds bytes in the first.
func (b *inbox) trim() {
	for b.head != nil && b.head.r == b.head.w && !b.emptying && (b.head != b.tail || !b.filling) {
		k := b.head
		b.head = k.next
		if b.head == nil {
			b.tail = nil
		}
		b.pool.put(k)
	}
}

// drop forgets everything. Chunks in use are left to the garbage collector.
func (b *inbox) drop() {
	for k := b.head; k != nil && !b.filling && !b.emptying; {
		next := k.next
		b.pool.put(k)
		k = next
	}
	b.head, b.tail, b.size = nil, nil, 0
}
