package capsule

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/quic-go/quic-go/quicvarint"
)

// vector is a capsule byte by byte, as the figures of RFC 9297 section 3.2, RFC
// 9298 section 5 and RFC 9000 appendix A.1 have it.
func vector(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPayloadsAreWrittenAsTheRFCsSay(t *testing.T) {
	for _, test := range []struct {
		name    string
		payload string
		want    string // type, length, context, then the payload
	}{
		{"empty", "", "00 01 00"},
		{"one byte", "ff", "00 02 00 ff"},
		{"longest of a length of one byte", strings.Repeat("61", 62), "00 3f 00" + strings.Repeat("61", 62)},
		{"shortest of a length of two bytes", strings.Repeat("61", 63), "00 4040 00" + strings.Repeat("61", 63)},
		{"shortest of a length of four bytes", strings.Repeat("61", 16383), "00 80004000 00" + strings.Repeat("61", 16383)},
		{"longest of UDP", strings.Repeat("61", MaxPayload), "00 8000fff8 00" + strings.Repeat("61", MaxPayload)},
	} {
		payload, want := vector(t, test.payload), vector(t, test.want)
		got := Append([]byte("before"), payload)
		if !bytes.Equal(got, append([]byte("before"), want...)) {
			t.Errorf("%s: capsule is %.20x…, want %.20x…", test.name, got, want)
		}
		if n := Size(len(payload)); n != len(want) {
			t.Errorf("%s: size %d, want %d", test.name, n, len(want))
		}
		if got, want := AppendDatagram(nil, payload), append([]byte{0}, payload...); !bytes.Equal(got, want) {
			t.Errorf("%s: HTTP datagram is %.20x…, want %.20x…", test.name, got, want)
		}
	}
}

func TestPayloadIsWhatFollowsContextZero(t *testing.T) {
	tooLong := "00" + strings.Repeat("61", MaxPayload+1)
	for _, test := range []struct {
		name, datagram, want string
		ok                   bool
		err                  error
	}{
		{"payload", "00 6869", "6869", true, nil},
		{"empty payload", "00", "", true, nil},
		{"longest payload", tooLong[:len(tooLong)-2], tooLong[2 : len(tooLong)-2], true, nil},
		{"context in more bytes than it needs", "4000 6869", "6869", true, nil},
		{"context of the client's", "02 6869", "", false, nil},
		{"context of the edge's", "01 6869", "", false, nil},
		{"longest context", "ffffffffffffffff 68", "", false, nil},
		{"long datagram of another context", "02" + tooLong, "", false, nil},
		{"payload too long", tooLong, "", false, ErrMalformed},
		{"no context", "", "", false, ErrMalformed},
		{"half a context", "40", "", false, ErrMalformed},
	} {
		got, ok, err := Payload(vector(t, test.datagram))
		if !bytes.Equal(got, vector(t, test.want)) || ok != test.ok || !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
			t.Errorf("%s: got %.20x, %v, %v", test.name, got, ok, err)
		}
	}
}

func TestReaderFindsPayloadsInAnyPieces(t *testing.T) {
	stream := vector(t, "00 03 00 6161"+ // one
		"00 01 00"+ // an empty one
		"17 04 deadbeef"+ // an unknown type
		"ffffffffffffffff 00"+ // another, of no length
		"29 4003 010203"+ // one kept for greasing (RFC 9297 section 5.4)
		"00 04 02 626262"+ // another context
		"4000 8000 0003 00 6363"+ // type and length in more bytes than they need
		"00 4051 00"+strings.Repeat("64", 80))
	want := [][]byte{[]byte("aa"), {}, []byte("cc"), bytes.Repeat([]byte("d"), 80)}
	for size := range len(stream) {
		var r Reader
		var got [][]byte
		for piece := range slices.Chunk(stream, size+1) {
			batch, err := r.Read(piece, nil)
			if err != nil {
				t.Fatalf("pieces of %d: %v", size+1, err)
			}
			for _, payload := range batch {
				got = append(got, bytes.Clone(payload))
			}
		}
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("pieces of %d: got %q", size+1, got)
		}
		if r.Within() {
			t.Errorf("pieces of %d: the stream ends inside a capsule", size+1)
		}
	}
}

func TestReaderKeepsThoseBeforeAMalformedOne(t *testing.T) {
	for name, broken := range map[string]string{
		"no context":        "00 00",
		"context cut off":   "00 01 40",
		"length too long":   "00 80010000",
		"payload too long":  "00 8000fff9 00" + strings.Repeat("61", MaxPayload+1),
		"length of 62 bits": "00 ffffffffffffffff",
	} {
		stream := vector(t, "00 02 00 61"+broken)
		for _, size := range []int{1, 3, len(stream)} {
			var r Reader
			var got int
			var err error
			for piece := range slices.Chunk(stream, size) {
				var batch [][]byte
				batch, err = r.Read(piece, nil)
				got += len(batch)
				if err != nil {
					break
				}
			}
			if got != 1 || !errors.Is(err, ErrMalformed) {
				t.Errorf("%s in pieces of %d: %d payloads and error %v", name, size, got, err)
			}
		}
	}
}

func TestReaderTellsAStreamThatIsCutOff(t *testing.T) {
	for _, cut := range []string{"00", "00 40", "00 02", "00 02 00", "17 04 dead", "40"} {
		var r Reader
		if batch, err := r.Read(vector(t, cut), nil); len(batch) > 0 || err != nil || !r.Within() {
			t.Errorf("after %s: %d payloads, error %v, within %v", cut, len(batch), err, r.Within())
		}
	}
}

func TestReaderNeedsNoRoomForWholeCapsules(t *testing.T) {
	var stream []byte
	for range 40 {
		stream = Append(stream, make([]byte, 1400))
	}
	var r Reader
	batch := make([][]byte, 0, 64)
	if n := testing.AllocsPerRun(10, func() {
		got, err := r.Read(stream, batch[:0])
		if len(got) != 40 || err != nil {
			t.Fatal(len(got), err)
		}
	}); n != 0 {
		t.Errorf("reading whole capsules makes %v allocations", n)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte{0, 3, 0, 'a', 'b', 0, 1, 0}, uint64(1))
	f.Add([]byte{0x17, 0x40, 2, 1, 2, 0, 2, 0, 'x'}, uint64(2))
	f.Add([]byte{0, 0}, uint64(3))
	f.Add([]byte{0, 0x80, 1, 0, 0}, uint64(4))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		var whole, pieces Reader
		want, wantErr := whole.Read(stream, nil)
		random := rand.New(rand.NewPCG(seed, 0))
		var got [][]byte
		var err error
		for rest := stream; len(rest) > 0 && err == nil; {
			n := 1 + random.IntN(len(rest))
			var batch [][]byte
			batch, err = pieces.Read(rest[:n], nil)
			for _, payload := range batch {
				got = append(got, bytes.Clone(payload))
			}
			rest = rest[n:]
		}
		if !slices.EqualFunc(got, want, bytes.Equal) || !errors.Is(err, wantErr) {
			t.Fatalf("in pieces %q (%v), in one %q (%v)", got, err, want, wantErr)
		}
		if err == nil && whole.Within() != pieces.Within() {
			t.Fatal("pieces leave the reader elsewhere")
		}
		if held := cap(pieces.partial) + cap(pieces.whole); held > 8*(MaxPayload+3*maxVarint) {
			t.Fatalf("reader holds %d bytes", held)
		}
		for _, payload := range want {
			if len(payload) > MaxPayload {
				t.Fatalf("payload of %d bytes", len(payload))
			}
		}
	})
}

func FuzzWhatIsAppendedIsRead(f *testing.F) {
	f.Add([]byte("payload"), uint64(9), []byte("of an unknown type"))
	f.Fuzz(func(t *testing.T, payload []byte, kind uint64, other []byte) {
		if len(payload) > MaxPayload || kind == datagramType || kind > quicvarint.Max {
			return
		}
		stream := quicvarint.Append(nil, kind)
		stream = quicvarint.Append(stream, uint64(len(other)))
		stream = Append(append(stream, other...), payload)
		var r Reader
		batch, err := r.Read(stream, nil)
		if err != nil || len(batch) != 1 || !bytes.Equal(batch[0], payload) || r.Within() {
			t.Fatalf("got %q, %v", batch, err)
		}
	})
}
