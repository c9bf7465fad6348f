package tunnel

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestInboxKeepsOrderUnderAnyInterleaving fills and empties an inbox in random
// steps, which may overlap, and compares with what went in.
func TestInboxKeepsOrderUnderAnyInterleaving(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		b := inbox{pool: new(chunkPool)}
		var in, out []byte
		var room, full []byte
		for range 300 {
			switch random.IntN(4) {
			case 0:
				if room == nil {
					room = b.reserve(1 + random.IntN(40<<10))
				}
			case 1:
				if room != nil {
					n := random.IntN(len(room) + 1)
					for i := range room[:n] {
						room[i] = byte(random.Uint32())
					}
					in = append(in, room[:n]...)
					b.commit(n)
					room = nil
				}
			case 2:
				if full == nil && b.size > 0 {
					full = b.peek()
					if len(full) == 0 {
						t.Fatalf("nothing to peek at, %d bytes are held", b.size)
					}
				}
			case 3:
				if full != nil {
					n := 1 + random.IntN(len(full))
					out = append(out, full[:n]...)
					b.advance(n)
					full = nil
				}
			}
			if b.size != len(in)-len(out) {
				t.Fatalf("size %d, want %d", b.size, len(in)-len(out))
			}
		}
		if !bytes.HasPrefix(in, out) {
			t.Fatal("bytes came out changed")
		}
	}
}

func TestEmptyInboxHoldsNoChunk(t *testing.T) {
	b := inbox{pool: new(chunkPool)}
	for range 3 {
		b.commit(copy(b.reserve(5), "hello"))
		b.advance(copy(make([]byte, 5), b.peek()))
		if b.head != nil || b.tail != nil {
			t.Error("an empty inbox holds a chunk")
		}
	}
}

func TestDroppedInboxTakesNoMore(t *testing.T) {
	b := inbox{pool: new(chunkPool)}
	b.commit(copy(b.reserve(5), "hello"))
	room, full := b.reserve(5), b.peek()
	b.drop()
	copy(room, "later") // its owner has not heard yet
	b.commit(5)
	b.advance(len(full))
	if b.size != 0 || b.head != nil || string(full) != "hello" {
		t.Errorf("%d bytes are held, peeked at %q", b.size, full)
	}
}
