package dns

import "fmt"

// Way says where an answer comes from.
type Way uint8

// The ways of answers.
const (
	WayDirect    Way = iota // the server that was asked
	WayTunnel               // the server that was asked, through a channel
	WayPrivate              // a private server, through a channel
	WaySynthetic            // nobody: it is made here
	ways
)

// String returns the way's name, as metrics have it.
func (w Way) String() string {
	if w < ways {
		return [ways]string{"direct", "tunnel", "private", "synthetic"}[w]
	}
	return fmt.Sprintf("way(%d)", uint8(w))
}

// MarshalText returns the way's name, as JSON shows it.
func (w Way) MarshalText() ([]byte, error) { return []byte(w.String()), nil }
