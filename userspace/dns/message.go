package dns

// Bounds of messages.
const (
	headerSize  = 12    // RFC 1035, section 4.1.1
	maxMessage  = 65535 // RFC 1035, section 4.2.2
	maxUDPQuery = 4096  // what servers take by UDP, and more than any client sends
)

// Bits of a header's second word.
const (
	flagResponse  = 1 << 15
	maskOpcode    = 0xf << 11
	flagTruncated = 1 << 9
	flagRecursion = 1 << 8 // desired
	maskRcode     = 0xf
)

// word reads the number in two bytes, as the whole protocol writes them.
func word(b []byte) uint16 { return uint16(b[0])<<8 | uint16(b[1]) }

// setWord writes what word reads.
func setWord(b []byte, n int) { b[0], b[1] = byte(n>>8), byte(n) }

// The parts of a header, which the caller knows to be there.
func flags(message []byte) uint16     { return word(message[2:]) }
func questions(message []byte) uint16 { return word(message[4:]) }
func isQuery(message []byte) bool     { return flags(message)&maskOpcode == 0 }

// bare is an answer of nothing but a header: for a query whose question is not
// to be had, or has no single one.
func bare(query []byte, rcode int) []byte {
	answer := make([]byte, headerSize)
	copy(answer, query[:2])
	setWord(answer[2:], int(flagResponse|flags(query)&(maskOpcode|flagRecursion))|rcode)
	return answer
}

// framed is a message as TCP carries it, after its length.
func framed(message []byte) []byte {
	frame := make([]byte, 2+len(message))
	setWord(frame, len(message))
	copy(frame[2:], message)
	return frame
}
