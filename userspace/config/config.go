// Package config reads the agent's own file, bpfacq.toml.
//
// The file is strict: a key that does not exist, a key given twice and a value
// of the wrong type are errors that name their place. [Example] is the
// documentation of every key.
package config

import (
	"bytes"
	_ "embed" // for Example
	"encoding"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// Path is where the agent and its commands look for their configuration.
const Path = "/etc/bpfacq/bpfacq.toml"

// maxBytes bounds what Parse looks at: the documented example is 4 KB.
const maxBytes = 1 << 20

// Example is the documented configuration: every key with its default.
//
//go:embed bpfacq.toml
var Example string

// Config is a whole configuration. A field tagged restart takes effect only
// when the agent starts.
type Config struct {
	Profile  string  `toml:"profile"`
	StateDir string  `toml:"state-dir" restart:"yes"`
	Kernel   Kernel  `toml:"kernel" restart:"yes"`
	Edges    Edges   `toml:"edges"`
	FQDN     FQDN    `toml:"fqdn"`
	Packet   Packet  `toml:"packet" restart:"yes"`
	Relay    Relay   `toml:"relay" restart:"yes"`
	Control  Control `toml:"control" restart:"yes"`
	Metrics  Metrics `toml:"metrics" restart:"yes"`
	Log      Log     `toml:"log"`
}

// Kernel says where the datapath is attached and pinned.
type Kernel struct {
	Cgroup string   `toml:"cgroup"` // empty: the root of the cgroup2 hierarchy
	Pins   string   `toml:"pins"`
	Lease  Duration `toml:"lease"`
}

// Edges says which edges may be used, and how they are reached and trusted.
type Edges struct {
	Allow       []string          `toml:"allow"`      // host names, "*." patterns and addresses
	CAFile      string            `toml:"ca-file"`    // empty: the system's roots
	Cleartext   bool              `toml:"cleartext"`  // permit edges that the profile marks isSecure=false
	TokenFile   string            `toml:"token-file"` // empty: no Proxy-Authorization
	Connections int               `toml:"connections"`
	Transport   string            `toml:"transport"` // one of the Transport constants
	Addresses   map[string]string `toml:"addresses"` // edge name to "ip" or "ip:port"
}

// The values of edges.transport.
const (
	TransportAuto  = "auto"  // what the edge prefers of what it offers
	TransportHTTP3 = "h3"    // HTTP/3 alone
	TransportHTTP2 = "h2"    // HTTP/2 alone
	TransportHTTP1 = "http1" // HTTP/1.1 alone: no datagrams
)

// Packet says which packets of the host's devices are acquired: UDP of all kinds,
// and TCP that is no plain socket's of the host.
type Packet struct {
	Uplinks       []string `toml:"uplinks"`         // names of devices, or UplinksAuto alone; empty: none
	Containers    string   `toml:"containers"`      // ContainersUplink or ContainersOff
	UDPIdle       Duration `toml:"udp-idle"`        // until a flow has been answered more than once
	UDPStreamIdle Duration `toml:"udp-stream-idle"` // from then on
	UDPFlows      int      `toml:"udp-flows"`       // the most at once
}

// UplinksAuto in packet.uplinks stands for the devices that the host's routes name.
const UplinksAuto = "auto"

// The values of packet.containers.
const (
	ContainersUplink = "uplink" // what the host forwards is acquired as it leaves
	ContainersOff    = "off"
)

// Acquires reports whether packets of any device are acquired.
func (p Packet) Acquires() bool { return len(p.Uplinks) > 0 }

// FQDN says whether host names are acquired, and how.
type FQDN struct {
	Acquire             bool   `toml:"acquire"`
	AlsoMatchOriginalIP bool   `toml:"also-match-original-ip"`
	SyntheticIPv6       string `toml:"synthetic-ipv6"` // a prefix in CIDR form; empty: none
}

// Pool6 returns the prefix of synthetic IPv6 addresses. The zero Prefix says
// that there is none.
func (f FQDN) Pool6() netip.Prefix {
	prefix, _ := netip.ParsePrefix(f.SyntheticIPv6) // Parse has looked at it
	return prefix
}

// Relay says what carries acquired flows, when it is not the agent itself.
type Relay struct {
	ExternalListener string   `toml:"external-listener"`
	ExternalCgroup   string   `toml:"external-cgroup"`
	Drain            Duration `toml:"drain"`
}

// Control says where the agent answers its commands.
type Control struct {
	Socket string `toml:"socket"`
}

// Metrics says where Prometheus metrics are served beside the control socket.
type Metrics struct {
	Listen string `toml:"listen"`
}

// Log says what the agent writes to its standard error, or to the journal.
type Log struct {
	Level  slog.Level `toml:"level"`
	Format string     `toml:"format" restart:"yes"` // auto, text, json or journal
}

// Duration is a time.Duration that the file writes as a string such as "3s".
type Duration time.Duration

// UnmarshalText reads the form that time.ParseDuration accepts.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q, want %s", text, wantDuration)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes the duration as UnmarshalText reads it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String returns the duration as time.Duration does.
func (d Duration) String() string { return time.Duration(d).String() }

var (
	_ encoding.TextUnmarshaler = (*Duration)(nil)
	_ encoding.TextMarshaler   = Duration(0)
)

// Default returns the configuration of an empty file.
func Default() Config {
	return Config{
		Profile:  "/etc/bpfacq/profile.json",
		StateDir: "/var/lib/bpfacq",
		Kernel:   Kernel{Pins: "/sys/fs/bpf/bpfacq", Lease: Duration(3 * time.Second)},
		Edges:    Edges{Transport: TransportAuto},
		FQDN:     FQDN{Acquire: true},
		Packet: Packet{
			Uplinks:       []string{UplinksAuto},
			Containers:    ContainersUplink,
			UDPIdle:       Duration(30 * time.Second),
			UDPStreamIdle: Duration(180 * time.Second),
			UDPFlows:      65536,
		},
		Relay:   Relay{Drain: Duration(5 * time.Second)},
		Control: Control{Socket: "/run/bpfacq/control.sock"},
		Log:     Log{Level: slog.LevelInfo, Format: "auto"},
	}
}

// Load reads the file at path. A file that does not exist is an error that
// matches fs.ErrNotExist; a file that says something wrong is [Problems].
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	document, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(document, path)
}

// Parse reads a document over the defaults. Its error is [Problems], each of
// which begins with name.
func Parse(document []byte, name string) (*Config, error) {
	if len(document) > maxBytes {
		return nil, Problems{{File: name, Text: fmt.Sprintf("longer than %d bytes", maxBytes)}}
	}
	entries := outline(document)
	if problems := checkShape(entries); len(problems) > 0 {
		return nil, problems.in(name)
	}
	c := Default()
	d := toml.NewDecoder(bytes.NewReader(document)).DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return nil, decodeProblems(err, entries).in(name)
	}
	if problems := c.check(entries); len(problems) > 0 {
		return nil, problems.in(name)
	}
	return &c, nil
}

// decodeProblems translates the decoder's words: they name Go types, which
// mean nothing to the person who wrote the file.
func decodeProblems(err error, entries []entry) Problems {
	if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		var problems Problems
		for _, e := range strict.Errors {
			problems = append(problems, decodeProblem(&e))
		}
		return problems
	}
	if e, ok := errors.AsType[*toml.DecodeError](err); ok {
		return Problems{decodeProblem(e)}
	}
	return Problems{{Text: strings.TrimPrefix(err.Error(), "toml: ")}}
}

func decodeProblem(e *toml.DecodeError) Problem {
	p := Problem{Text: strings.TrimPrefix(e.Error(), "toml: ")}
	p.Line, p.Column = e.Position()
	if field, ok := fieldAt(e.Key()); ok && (strings.HasPrefix(p.Text, "cannot ") || strings.HasPrefix(p.Text, "slog:")) {
		p.Text = "want " + wanted(field).words
	}
	if key := keyPath(e.Key()); !strings.Contains(p.Text, key) {
		p.Key = key
	}
	return p
}
