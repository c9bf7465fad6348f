package flow

import "fmt"

// Protocol is the transport protocol of a flow.
type Protocol uint8

// The protocols that are acquired. The zero value is TCP, as the socket path
// takes nothing else.
const (
	TCP Protocol = iota
	UDP
)

// String returns "tcp" or "udp".
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return fmt.Sprintf("protocol(%d)", uint8(p))
}

// MarshalText returns the protocol's name, as JSON shows it.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (p *Protocol) UnmarshalText(text []byte) error {
	for protocol := TCP; protocol <= UDP; protocol++ {
		if protocol.String() == string(text) {
			*p = protocol
			return nil
		}
	}
	return fmt.Errorf("parse protocol %q", text)
}
