package maps

import (
	"fmt"
	"iter"
	"math"
	"net/netip"

	"github.com/bpfacq/bpfacq/bpf"
)

// Action is what the winning entry of a flow wants.
type Action uint8

// The actions of an entry, numbered as in the datapath.
const (
	ActionNone    = Action(bpf.SocketActionACTION_NONE)    // of no entry
	ActionBypass  = Action(bpf.SocketActionACTION_BYPASS)  // leave alone
	ActionTunnel  = Action(bpf.SocketActionACTION_TUNNEL)  // acquire
	ActionProtect = Action(bpf.SocketActionACTION_PROTECT) // never acquire

	// ActionSynthetic says that the address stands for a name, whose row decides.
	ActionSynthetic = Action(bpf.SocketActionACTION_SYNTHETIC)

	// ActionReject refuses packets at once, as if nobody listened there, so that
	// the application tries another way. Sockets of the socket path are left alone.
	ActionReject = Action(bpf.SocketActionACTION_REJECT)
)

// String returns the action's name.
func (a Action) String() string {
	switch a {
	case ActionNone:
		return "none"
	case ActionBypass:
		return "bypass"
	case ActionTunnel:
		return "tunnel"
	case ActionProtect:
		return "protect"
	case ActionSynthetic:
		return "synthetic"
	case ActionReject:
		return "reject"
	}
	return fmt.Sprintf("action(%d)", uint8(a))
}

// Hardening is what a Tunnel entry wants when its flow cannot be carried.
type Hardening uint8

// The hardenings of an entry, numbered as in the datapath.
const (
	HardeningNone   = Hardening(bpf.SocketHardeningHARDENING_NONE)
	HardeningBypass = Hardening(bpf.SocketHardeningHARDENING_BYPASS) // fail open
	HardeningBlock  = Hardening(bpf.SocketHardeningHARDENING_BLOCK)  // fail closed
)

// String returns the hardening's name.
func (h Hardening) String() string {
	switch h {
	case HardeningNone:
		return "none"
	case HardeningBypass:
		return "bypass"
	case HardeningBlock:
		return "block"
	}
	return fmt.Sprintf("hardening(%d)", uint8(h))
}

// ChannelState is the state of a channel as the kernel tables show it.
type ChannelState uint8

// The states of a channel, numbered as in the datapath.
const (
	ChannelUnknown    = ChannelState(bpf.SocketChannelStateCHANNEL_UNKNOWN)
	ChannelConnecting = ChannelState(bpf.SocketChannelStateCHANNEL_CONNECTING)
	ChannelUp         = ChannelState(bpf.SocketChannelStateCHANNEL_UP)
	ChannelDown       = ChannelState(bpf.SocketChannelStateCHANNEL_DOWN)
)

// String returns the state's name.
func (s ChannelState) String() string {
	switch s {
	case ChannelUnknown:
		return "unknown"
	case ChannelConnecting:
		return "connecting"
	case ChannelUp:
		return "up"
	case ChannelDown:
		return "down"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Datagrams says whether the edges of a channel carry datagrams.
type Datagrams uint8

// The answers about datagrams, numbered as in the datapath.
const (
	DatagramsUnknown = Datagrams(bpf.SocketDatagramsDATAGRAMS_UNKNOWN) // not asked yet: taken for a yes
	DatagramsCarried = Datagrams(bpf.SocketDatagramsDATAGRAMS_CARRIED)
	DatagramsRefused = Datagrams(bpf.SocketDatagramsDATAGRAMS_REFUSED) // hardening decides about UDP
)

// String returns the answer's name.
func (d Datagrams) String() string {
	switch d {
	case DatagramsUnknown:
		return "unknown"
	case DatagramsCarried:
		return "carried"
	case DatagramsRefused:
		return "refused"
	}
	return fmt.Sprintf("datagrams(%d)", uint8(d))
}

// MaxText is how many bytes of a rule id, a channel id or a name the tables keep.
const MaxText = len(bpf.SocketEntry{}.Id) - 1

// Entry is one rule, or one protected destination, of a generation.
type Entry struct {
	ID        string // of the rule; the reason of a protection
	Order     float64
	Rule      uint32 // index in the policy
	Channel   uint32 // index in Tables.Channels
	Action    Action
	Hardening Hardening
}

// Channel is one channel of a generation.
type Channel struct {
	ID, Name  string
	State     ChannelState
	Datagrams Datagrams
}

// Rows yields prefixes with their row in the verdict table, and says how many.
type Rows struct {
	Len int
	All iter.Seq2[netip.Prefix, uint32]
}

// Tables are a compiled policy in the shape that the kernel reads: the longest
// prefix gives a row, the port a class, and the cell row+class the number of the
// winning entry plus one, or 0 for none.
type Tables struct {
	IPv4, IPv6 Rows
	TCP, UDP   *[65536]uint16 // port (host byte order) to class
	Verdicts   []uint32
	Width      int // length of a row of Verdicts: the number of port classes
	Entries    []Entry
	Channels   []Channel
	Names      []Name

	// SpareRows and SpareNames is the room for AppendRow and PutName, beside
	// what is in Verdicts and Names.
	SpareRows, SpareNames int
}

func rawEntry(e Entry) bpf.SocketEntry {
	raw := bpf.SocketEntry{
		Order:     math.Float64bits(e.Order),
		Rule:      e.Rule,
		Channel:   e.Channel,
		Action:    uint8(e.Action),
		Hardening: uint8(e.Hardening),
	}
	text(raw.Id[:], e.ID)
	return raw
}

func newEntry(raw *bpf.SocketEntry) Entry {
	return Entry{
		ID:        untext(raw.Id[:]),
		Order:     math.Float64frombits(raw.Order),
		Rule:      raw.Rule,
		Channel:   raw.Channel,
		Action:    Action(raw.Action),
		Hardening: Hardening(raw.Hardening),
	}
}

func rawChannel(c Channel) bpf.SocketChannel {
	raw := bpf.SocketChannel{State: uint8(c.State), Datagrams: uint8(c.Datagrams)}
	text(raw.Id[:], c.ID)
	text(raw.Name[:], c.Name)
	return raw
}

func newChannel(raw *bpf.SocketChannel) Channel {
	return Channel{
		ID:        untext(raw.Id[:]),
		Name:      untext(raw.Name[:]),
		State:     ChannelState(raw.State),
		Datagrams: Datagrams(raw.Datagrams),
	}
}
