package control

import "time"

// Status is the agent at one moment.
type Status struct {
	Schema     int               `json:"schema"`
	Version    string            `json:"version"`
	PID        int               `json:"pid"`
	Started    time.Time         `json:"started"`
	Uptime     float64           `json:"uptime_seconds"`
	Cgroup     string            `json:"cgroup"`
	Pins       string            `json:"pins"`
	Hooks      []Hook            `json:"hooks"`
	Generation uint32            `json:"generation"` // 0: no policy is loaded
	Profile    *Profile          `json:"profile"`    // nil: no policy is loaded
	Channels   []Channel         `json:"channels"`
	Lease      Lease             `json:"lease"`
	Flows      Totals            `json:"flows"`
	DNS        DNS               `json:"dns"`
	Packets    Packets           `json:"packets"`
	Counters   map[string]uint64 `json:"counters"`
	Warnings   []string          `json:"warnings"`
}

// Hook is a kernel attach point with a program of the datapath.
type Hook struct {
	Program     string `json:"program"`
	ID          uint32 `json:"id"` // of the program
	AttachPoint string `json:"attach_point"`
}

// Profile identifies a policy and where it came from.
type Profile struct {
	ID       string    `json:"id"`
	Tenant   string    `json:"tenant"`
	Revision string    `json:"revision"`
	Rules    int       `json:"rules"`
	Source   string    `json:"source"`
	Applied  time.Time `json:"applied"`
}

// Channel is a channel and the edge that carries its flows.
type Channel struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	State      string    `json:"state"` // connecting, up or down
	Cause      string    `json:"cause,omitempty"`
	Since      time.Time `json:"since"`
	Edge       string    `json:"edge,omitempty"` // host:port of the edge in use
	Streams    int       `json:"streams"`
	Protocol   string    `json:"protocol,omitempty"`   // of the TCP flows to the edge in use, as ALPN spells it
	Datagrams  string    `json:"datagrams,omitempty"`  // whether its edges carry UDP: unknown, yes or no
	Diagnostic string    `json:"diagnostic,omitempty"` // result of the last probe of diagnosticUri
}

// Lease is the heartbeat by which the kernel knows that the agent is alive.
type Lease struct {
	Period float64 `json:"period_seconds"`
	Fresh  bool    `json:"fresh"`
}

// Totals counts flows since the agent started. It has the fields of
// flow.Totals, which converts to it.
type Totals struct {
	Active        uint64 `json:"active"`
	Closed        uint64 `json:"closed"`
	Reset         uint64 `json:"reset"`
	Refused       uint64 `json:"refused"`
	Failed        uint64 `json:"failed"`
	BytesSent     uint64 `json:"bytes_sent"`
	BytesReceived uint64 `json:"bytes_received"`

	DatagramsSent     uint64 `json:"datagrams_sent"`
	DatagramsReceived uint64 `json:"datagrams_received"`
}

// Profile identifies the loaded policy.
func (l Loaded) Profile() Profile {
	return Profile{
		ID:       l.Policy.ID,
		Tenant:   l.Policy.Tenant,
		Revision: l.Policy.Revision,
		Rules:    len(l.Policy.Rules),
		Source:   l.Source,
		Applied:  l.Applied,
	}
}
