package control

// Packets is the packet path at one moment: all that is not TCP of a socket of
// the host.
type Packets struct {
	On         bool     `json:"on"`         // false: the configuration has no uplinks
	Containers bool     `json:"containers"` // whether flows that the host forwards are acquired
	Uplinks    []Uplink `json:"uplinks"`    // by index

	// UDP counts the flows of the relay for datagrams.
	UDP UDP `json:"udp"`
}

// Uplink is a device whose egress is acquired from, and the enclave that its
// flows go to.
type Uplink struct {
	Name  string `json:"name"`
	Index int    `json:"index"` // of the device
	State string `json:"state"` // up, away while nothing can leave by it, or failed
	MTU   int    `json:"mtu"`
	L3    bool   `json:"l3"`                  // a device without MAC header: tun, wg, ppp
	Links string `json:"links"`               // how the programs are attached: tcx or clsact
	Pair  string `json:"pair,omitempty"`      // name of the host's end of the enclave's pair
	Cause string `json:"cause,omitempty"`     // why nothing is acquired from it, if so
	Lost  uint64 `json:"links_lost,omitzero"` // how often its programs were found detached, and attached again
}

// UDP is the state of the relay for datagrams.
type UDP struct {
	Flows    int `json:"flows"`    // that are carried
	Capacity int `json:"capacity"` // the most that are carried at once
	Sockets  int `json:"sockets"`  // that replies are sent from, one for each port

	// Events counts what happened to flows and datagrams, by a name in lower
	// case such as "evicted", "refused" or "dropped".
	Events map[string]uint64 `json:"events"`
}

// listed has lists and objects where JSON would show null.
func (p Packets) listed() Packets {
	p.Uplinks = list(p.Uplinks)
	if p.UDP.Events == nil {
		p.UDP.Events = map[string]uint64{}
	}
	return p
}
