package capsule

import "github.com/quic-go/quic-go/quicvarint"

// Reader finds the UDP payloads in a stream of capsules that comes in pieces of
// any length. The zero value is at the stream's start. It holds no more than two
// capsules of the longest payload.
type Reader struct {
	partial []byte // the start of a capsule that is yet to become whole
	whole   []byte // room of the one that last did
	skip    uint64 // bytes yet to come of a capsule that nobody wants
}

// Read appends the payloads that p completes to batch. They share their bytes
// with p or with the Reader, and are valid until the next Read. Capsules of
// other types and payloads of other contexts are passed over (RFC 9297
// section 3.2). After an error, which is ErrMalformed, the stream cannot be read
// on; what precedes it is in the batch.
func (r *Reader) Read(p []byte, batch [][]byte) ([][]byte, error) {
	for len(p) > 0 {
		if r.skip > 0 {
			n := min(r.skip, uint64(len(p)))
			r.skip -= n
			p = p[n:]
			continue
		}
		datagram, rest, err := r.next(p)
		if err != nil {
			return batch, err
		}
		p = rest
		if datagram == nil {
			continue
		}
		payload, ok, err := Payload(datagram)
		if err != nil {
			return batch, err
		}
		if ok {
			batch = append(batch, payload)
		}
	}
	return batch, nil
}

// Within reports whether the stream stands inside a capsule: ending there, it is
// cut off.
func (r *Reader) Within() bool { return len(r.partial) > 0 || r.skip > 0 }

// next takes what belongs to one capsule from p, and returns the HTTP datagram in
// it if that is whole now, else nil.
func (r *Reader) next(p []byte) (datagram, rest []byte, err error) {
	if len(r.partial) > 0 {
		return r.resume(p)
	}
	h, err := parseHeader(p)
	switch {
	case err != nil:
		return nil, nil, err
	case h.size > 0 && h.kind != datagramType:
		r.skip = h.length
		return nil, p[h.size:], nil
	case h.size > 0 && len(p) >= h.end():
		return p[h.size:h.end()], p[h.end():], nil
	}
	r.partial = append(r.partial, p...)
	return nil, nil, nil
}

// resume adds to the partial capsule what that needs of p: a byte at a time, of
// which there are few, until its header is whole.
func (r *Reader) resume(p []byte) (datagram, rest []byte, err error) {
	need := 1
	if h, _ := parseHeader(r.partial); h.size > 0 {
		need = h.end() - len(r.partial)
	}
	need = min(need, len(p))
	r.partial = append(r.partial, p[:need]...)
	p = p[need:]
	h, err := parseHeader(r.partial)
	switch {
	case err != nil:
		return nil, nil, err
	case h.size > 0 && h.kind != datagramType:
		r.skip = h.length
		r.partial = r.partial[:0]
	case h.size > 0 && len(r.partial) == h.end():
		r.partial, r.whole = r.whole[:0], r.partial
		return r.whole[h.size:], p, nil
	}
	return nil, p, nil
}

// header is the type and length of a capsule.
type header struct {
	kind, length uint64
	size         int // of the header itself, in bytes; 0 until it is whole
}

// end is the length of a DATAGRAM capsule with its header.
func (h header) end() int { return h.size + int(h.length) }

// parseHeader reads the header that b begins with. The error says that it is of
// a DATAGRAM capsule that is too long.
func parseHeader(b []byte) (header, error) {
	kind, n, err := quicvarint.Parse(b)
	if err != nil {
		return header{}, nil
	}
	length, m, err := quicvarint.Parse(b[n:])
	if err != nil {
		return header{}, nil
	}
	if kind == datagramType && length > maxVarint+MaxPayload {
		return header{}, ErrMalformed
	}
	return header{kind, length, n + m}, nil
}
