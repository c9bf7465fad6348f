// Package capsule speaks the formats that both ends of CONNECT-UDP share: the
// HTTP datagrams and capsules of RFC 9297, and the context identifiers and the
// request path of RFC 9298.
//
// Lengths, types and identifiers are the variable-length integers of RFC 9000
// section 16.
package capsule

import (
	"errors"

	"github.com/quic-go/quic-go/quicvarint"
)

const (
	// MaxPayload is the longest UDP payload that an HTTP datagram carries, in
	// bytes. Who receives a longer one must abort the stream (RFC 9298
	// section 5).
	MaxPayload = 65527

	// Protocol is the value of :protocol in a request (RFC 9298 section 3.4).
	Protocol = "connect-udp"

	// Header says in requests and answers that what follows are capsules, by
	// the value HeaderTrue (RFC 9297 section 3.4).
	Header = "capsule-protocol"

	// HeaderTrue is the value of Header.
	HeaderTrue = "?1"

	datagramType   = 0 // of a capsule, RFC 9297 section 3.5
	payloadContext = 0 // of UDP payloads, RFC 9298 section 4

	maxVarint = 8 // bytes of the longest
)

// ErrMalformed says that a peer breaks the format, which ends the stream.
var ErrMalformed = errors.New("malformed capsule")

// Size is the length of a capsule with a UDP payload of n bytes.
func Size(n int) int {
	return 1 + quicvarint.Len(uint64(n)+1) + 1 + n
}

// Append appends a DATAGRAM capsule with a UDP payload, which is not longer than
// MaxPayload.
func Append(b, payload []byte) []byte {
	b = append(b, datagramType)
	b = quicvarint.Append(b, uint64(len(payload))+1)
	return AppendDatagram(b, payload)
}

// AppendDatagram appends the HTTP datagram of a UDP payload, as it goes into a
// capsule or, after the number of its stream, into a QUIC DATAGRAM frame.
func AppendDatagram(b, payload []byte) []byte {
	return append(append(b, payloadContext), payload...)
}

// Payload returns the UDP payload of an HTTP datagram, which shares its bytes. ok
// is false for one of another context, which is to be dropped since nobody here
// has registered any (RFC 9298 section 4). The error is ErrMalformed.
func Payload(datagram []byte) (payload []byte, ok bool, err error) {
	context, n, err := quicvarint.Parse(datagram)
	switch {
	case err != nil:
		return nil, false, ErrMalformed
	case context != payloadContext:
		return nil, false, nil
	case len(datagram)-n > MaxPayload:
		return nil, false, ErrMalformed
	}
	return datagram[n:], true, nil
}
