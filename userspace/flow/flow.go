package flow

import (
	"fmt"
	"net/netip"
	"time"
)

// State says whether a flow is being carried, and how it ended if it is not.
type State uint8

// The states of a flow. The zero value is no state.
const (
	StateActive  State = iota + 1 // waits for its edge, or is carried
	StateClosed                   // both directions ended in order
	StateReset                    // the application, the edge or the agent aborted it
	StateRefused                  // the edge answered CONNECT with a status that is not 2xx
	StateFailed                   // no edge answered
)

// String returns the state's name in lower case.
func (s State) String() string {
	switch s {
	case StateActive:
		return "active"
	case StateClosed:
		return "closed"
	case StateReset:
		return "reset"
	case StateRefused:
		return "refused"
	case StateFailed:
		return "failed"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// MarshalText returns the state's name, as JSON shows it.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *State) UnmarshalText(text []byte) error {
	for state := StateActive; state <= StateFailed; state++ {
		if state.String() == string(text) {
			*s = state
			return nil
		}
	}
	return fmt.Errorf("parse flow state %q", text)
}

// Route says which way a flow was sent, as far as that is known.
type Route struct {
	Name    string // what the edge was asked for, if that is not the original destination
	Rule    string // the rule's identifier
	Channel string // the channel's identifier
	Edge    string // host:port
	Status  int    // HTTP status of the edge's answer to CONNECT; 0 when there was none
}

// Outcome is how a flow ended.
type Outcome struct {
	State State
	Cause string // for people; empty for StateClosed
}

// Flow is a flow as tables, JSON and the flow log show it. Counts are the
// application's view: sent is what it wrote. Bytes are those of payloads.
type Flow struct {
	ID            uint64         `json:"id"`
	Protocol      Protocol       `json:"protocol"`
	OrigDst       netip.AddrPort `json:"orig_dst"`
	Source        netip.AddrPort `json:"source,omitzero"` // of the packet path, see Record.Source
	Forwarded     bool           `json:"forwarded,omitempty"`
	Container     string         `json:"container,omitempty"` // where a forwarded flow comes from, if known
	Name          string         `json:"name,omitempty"`
	Rule          string         `json:"rule"`
	Channel       string         `json:"channel"`
	Edge          string         `json:"edge"`
	Generation    uint32         `json:"generation"`
	PID           uint32         `json:"pid"`
	UID           uint32         `json:"uid"`
	Command       string         `json:"command,omitempty"` // of PID; a Table leaves it empty
	State         State          `json:"state"`
	Cause         string         `json:"cause,omitempty"`
	Status        int            `json:"status,omitempty"`
	BytesSent     uint64         `json:"bytes_sent"`
	BytesReceived uint64         `json:"bytes_received"`

	// Datagrams are counted for UDP only.
	DatagramsSent     uint64 `json:"datagrams_sent,omitempty"`
	DatagramsReceived uint64 `json:"datagrams_received,omitempty"`

	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
}
