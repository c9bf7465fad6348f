package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestExampleStatesTheDefaults(t *testing.T) {
	got, err := Parse([]byte(Example), "bpfacq.toml")
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	if diff := cmp.Diff(&want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the example differs from Default (-default +example):\n%s", diff)
	}
}

func TestExampleNamesEveryKey(t *testing.T) {
	named := make(map[string]bool)
	for _, e := range outline([]byte(Example)) {
		named[keyPath(e.path)] = true
	}
	def := Default()
	for change := range compare("", false, reflect.ValueOf(def), reflect.ValueOf(def)) {
		if !named[change.Key] {
			t.Errorf("%s is not in the example", change.Key)
		}
	}
}

func TestExampleMarksWhatNeedsRestart(t *testing.T) {
	for _, name := range []string{"kernel", "packet", "relay", "control", "metrics"} {
		if !regexp.MustCompile(`(?m)^\[` + name + `\] # \(restart\)$`).MatchString(Example) {
			t.Errorf("[%s] is not marked", name)
		}
	}
	if n := strings.Count(Example, "(restart)"); n != 8 { // 5 tables, state-dir, log.format, the introduction
		t.Errorf("the example says (restart) %d times, want 8", n)
	}
}

const full = `
profile = "/p.json"
state-dir = "/state"
[kernel]
cgroup = "/sys/fs/cgroup/some.slice"
pins = "/sys/fs/bpf/x"
lease = "1m"
[edges]
allow = ["edge.example.com", "*.edges.example.com", "192.0.2.1", "2001:db8::1"]
ca-file = "/ca.pem"
cleartext = true
token-file = "/token"
connections = 256
transport = "h3"
addresses = { "edge.example.com" = "192.0.2.1", b = "[2001:db8::1]:8443" }
[fqdn]
acquire = false
also-match-original-ip = true
synthetic-ipv6 = "fd00:1:2:3::/64"
[packet]
uplinks = ["eth0", "wg-corp"]
containers = "off"
udp-idle = "1s"
udp-stream-idle = "1h"
udp-flows = 1048576
[relay]
external-listener = "127.0.0.1:12345"
external-cgroup = "/sys/fs/cgroup/redsocks"
drain = "0s"
[control]
socket = "/run/x.sock"
[metrics]
listen = "[::1]:9100"
[log]
level = "debug"
format = "json"
`

func TestParseReadsEveryKey(t *testing.T) {
	got, err := Parse([]byte(full), "bpfacq.toml")
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Profile:  "/p.json",
		StateDir: "/state",
		Kernel:   Kernel{Cgroup: "/sys/fs/cgroup/some.slice", Pins: "/sys/fs/bpf/x", Lease: Duration(time.Minute)},
		Edges: Edges{
			Allow:  []string{"edge.example.com", "*.edges.example.com", "192.0.2.1", "2001:db8::1"},
			CAFile: "/ca.pem", Cleartext: true, TokenFile: "/token", Connections: 256, Transport: TransportHTTP3,
			Addresses: map[string]string{"edge.example.com": "192.0.2.1", "b": "[2001:db8::1]:8443"},
		},
		FQDN: FQDN{Acquire: false, AlsoMatchOriginalIP: true, SyntheticIPv6: "fd00:1:2:3::/64"},
		Packet: Packet{
			Uplinks: []string{"eth0", "wg-corp"}, Containers: ContainersOff,
			UDPIdle: Duration(time.Second), UDPStreamIdle: Duration(time.Hour), UDPFlows: 1 << 20,
		},
		Relay:   Relay{ExternalListener: "127.0.0.1:12345", ExternalCgroup: "/sys/fs/cgroup/redsocks"},
		Control: Control{Socket: "/run/x.sock"},
		Metrics: Metrics{Listen: "[::1]:9100"},
		Log:     Log{Level: slog.LevelDebug, Format: "json"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
}

func TestParseTakesAnEmptyFile(t *testing.T) {
	got, err := Parse(nil, "bpfacq.toml")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), *got); diff != "" {
		t.Errorf("Parse (-default +got):\n%s", diff)
	}
}

// Every row is the empty file, valid, with one thing wrong in it.
func TestParseNamesPlaceKeyAndExpectation(t *testing.T) {
	const tables = ", want one of cgroup, lease, pins"
	const wantPool6 = `a prefix of fd00::/8 with 64 to 112 bits, such as "fd6b:7066:6163::/64"`
	for _, test := range []struct{ name, document, want string }{
		{"unknown key", "\n profil = 'x'", "f:2:2: profil: unknown key, want one of control, edges, fqdn, kernel, log, metrics, packet, profile, relay, state-dir"},
		{"unknown key in a table", "[kernel]\nlaese = '3s'", "f:2:1: kernel.laese: unknown key" + tables},
		{"unknown key in an inline table", "kernel = { laese = '3s' }", "f:1:12: kernel.laese: unknown key" + tables},
		{"unknown dotted key", "kernel.laese = '3s'", "f:1:1: kernel.laese: unknown key" + tables},
		{"unknown table", "[kernal]\nlease = '3s'\npins = '/x'", "f:1:2: kernal: unknown key, want one of control, edges, fqdn, kernel, log, metrics, packet, profile, relay, state-dir"},
		{"key in other letters", "[kernel]\nLease = '3s'", "f:2:1: kernel.Lease: unknown key" + tables},
		{"key below a value", "profile.x = '/p'", "f:1:1: profile.x: unknown key, want one of control, edges, fqdn, kernel, log, metrics, packet, profile, relay, state-dir"},
		{"duplicate key", "profile = '/a'\nprofile = '/a'", "f:2:1: key profile is already defined"},
		{"duplicate table", "[kernel]\n[kernel]", "f:2:2: table kernel already exists"},
		{"integer for a path", "profile = 3", "f:1:1: profile: an integer, want a string"},
		{"integer for a duration", "[kernel]\nlease = 3", `f:2:1: kernel.lease: an integer, want a duration such as "3s"`},
		{"boolean for a duration", "[kernel]\nlease = true", `f:2:1: kernel.lease: a bool, want a duration such as "3s"`},
		{"string for a boolean", "[edges]\ncleartext = 'yes'", "f:2:1: edges.cleartext: a string, want true or false"},
		{"string for a number", "[edges]\nconnections = '4'", "f:2:1: edges.connections: a string, want a whole number"},
		{"string for a list", "[edges]\nallow = 'x'", "f:2:1: edges.allow: a string, want a list of strings"},
		{"number in a list", "[edges]\nallow = ['x', 1]", "f:2:15: edges.allow: want a list of strings"},
		{"value for a table", "kernel = 1", "f:1:1: kernel: an integer, want a table"},
		{"list of tables", "[[kernel]]", "f:1:3: kernel: a list of tables, want a table"},
		{"number too large", "[edges]\nconnections = 99999999999999999999", "f:2:15: edges.connections: decimal number is too large to fit in a 64-bit signed integer"},
		{"duration without unit", "[kernel]\nlease = '3'", `f:2:9: kernel.lease: "3", want a duration such as "3s"`},
		{"level that does not exist", "[log]\nlevel = 'loud'", `f:2:9: log.level: want "debug", "info", "warn" or "error"`},
		{"trailing input", "profile = '/p' x", "f:1:16: expected newline but got U+0078 'x'"},
		{"unterminated string", "profile = \"/p", "f:1:13: unterminated basic string"},
		{"relative path", "profile = 'p.json'", `f:1:1: profile: "p.json", want an absolute path`},
		{"empty path", "[kernel]\npins = ''", `f:2:1: kernel.pins: "", want an absolute path`},
		{"relative optional path", "[kernel]\ncgroup = 'x'", `f:2:1: kernel.cgroup: "x", want an absolute path`},
		{"lease too short", "[kernel]\nlease = '999ms'", `f:2:1: kernel.lease: "999ms", want a duration from 1s to 1m0s`},
		{"lease too long", "[kernel]\nlease = '61s'", `f:2:1: kernel.lease: "1m1s", want a duration from 1s to 1m0s`},
		{"negative drain", "[relay]\ndrain = '-1s'", `f:2:1: relay.drain: "-1s", want a duration from 0s to 1h0m0s`},
		{"pattern with a star inside", "[edges]\nallow = ['a.*.b']", `f:2:1: edges.allow: "a.*.b", want a host name, "*." and a host name, an address, or a prefix`},
		{"pattern that covers all", "[edges]\nallow = ['*']", `f:2:1: edges.allow: "*", want a host name, "*." and a host name, an address, or a prefix`},
		{"pattern with a port", "[edges]\nallow = ['a:443']", `f:2:1: edges.allow: "a:443", want a host name, "*." and a host name, an address, or a prefix`},
		{"negative connections", "[edges]\nconnections = -1", `f:2:1: edges.connections: "-1", want 0 to 256`},
		{"address that is a name", "[edges.addresses]\n'a.b' = 'c.d'", `f:2:1: edges.addresses."a.b": "c.d", want an address such as "192.0.2.1", or with a port, "192.0.2.1:443"`},
		{"key of names in other letters", "[fqdn]\nAcquire = true", "f:2:1: fqdn.Acquire: unknown key, want one of acquire, also-match-original-ip, synthetic-ipv6"},
		{"string for a switch", "[fqdn]\nacquire = 'yes'", "f:2:1: fqdn.acquire: a string, want true or false"},
		{"synthetic prefix that is an address", "[fqdn]\nsynthetic-ipv6 = 'fd00::1'", `f:2:1: fqdn.synthetic-ipv6: "fd00::1", want ` + wantPool6},
		{"synthetic prefix of IPv4", "[fqdn]\nsynthetic-ipv6 = '253.0.0.0/8'", `f:2:1: fqdn.synthetic-ipv6: "253.0.0.0/8", want ` + wantPool6},
		{"synthetic prefix of everybody", "[fqdn]\nsynthetic-ipv6 = '2001:db8::/64'", `f:2:1: fqdn.synthetic-ipv6: "2001:db8::/64", want ` + wantPool6},
		{"synthetic prefix of fc00::/8, which is not assigned", "[fqdn]\nsynthetic-ipv6 = 'fc00::/64'", `f:2:1: fqdn.synthetic-ipv6: "fc00::/64", want ` + wantPool6},
		{"synthetic prefix too short", "[fqdn]\nsynthetic-ipv6 = 'fd00::/63'", `f:2:1: fqdn.synthetic-ipv6: "fd00::/63", want ` + wantPool6},
		{"synthetic prefix too long", "[fqdn]\nsynthetic-ipv6 = 'fd00::/113'", `f:2:1: fqdn.synthetic-ipv6: "fd00::/113", want ` + wantPool6},
		{"synthetic prefix with bits behind it", "[fqdn]\nsynthetic-ipv6 = 'fd00::1/64'", `f:2:1: fqdn.synthetic-ipv6: "fd00::1/64", want ` + wantPool6},
		{"synthetic prefix with a zone", "[fqdn]\nsynthetic-ipv6 = 'fd00::%1/64'", `f:2:1: fqdn.synthetic-ipv6: "fd00::%1/64", want ` + wantPool6},
		{"transport that does not exist", "[edges]\ntransport = 'quic'", `f:2:1: edges.transport: "quic", want "auto", "h3", "h2" or "http1"`},
		{"string for a list of devices", "[packet]\nuplinks = 'auto'", "f:2:1: packet.uplinks: a string, want a list of strings"},
		{"auto beside a device", "[packet]\nuplinks = ['eth0', 'auto']", `f:2:1: packet.uplinks: "auto", want it alone, or names of devices`},
		{"device without a name", "[packet]\nuplinks = ['']", `f:2:1: packet.uplinks: "", want the name of a device, or "auto" alone`},
		{"device with a path", "[packet]\nuplinks = ['a/b']", `f:2:1: packet.uplinks: "a/b", want the name of a device, or "auto" alone`},
		{"device with a long name", "[packet]\nuplinks = ['a234567890123456']", `f:2:1: packet.uplinks: "a234567890123456", want the name of a device, or "auto" alone`},
		{"containers that are neither", "[packet]\ncontainers = 'bridge'", `f:2:1: packet.containers: "bridge", want "uplink" or "off"`},
		{"idle time too short", "[packet]\nudp-idle = '0s'", `f:2:1: packet.udp-idle: "0s", want a duration from 1s to 1h0m0s`},
		{"idle time of a stream below that of a flow", "[packet]\nudp-stream-idle = '29s'", `f:2:1: packet.udp-stream-idle: "29s", want no less than udp-idle`},
		{"no flow", "[packet]\nudp-flows = 0", `f:2:1: packet.udp-flows: "0", want 1 to 1048576`},
		{"external listener without its cgroup", "[relay]\nexternal-listener = '127.0.0.1:1'", `f: relay.external-cgroup: "", want external-listener and external-cgroup both, or neither`},
		{"external listener off loopback", "[relay]\nexternal-cgroup='/x'\nexternal-listener = '192.0.2.1:1'", `f:3:1: relay.external-listener: "192.0.2.1:1", want "127.0.0.1:" and a port above 0`},
		{"external listener where no flow is sent", "[relay]\nexternal-cgroup='/x'\nexternal-listener = '[::1]:1'", `f:3:1: relay.external-listener: "[::1]:1", want "127.0.0.1:" and a port above 0`},
		{"metrics without address", "[metrics]\nlisten = ':9100'", `f:2:1: metrics.listen: ":9100", want an address and a port such as "127.0.0.1:9100" or "[::1]:9100"`},
		{"socket path too long", "[control]\nsocket = '/" + strings.Repeat("x", 107) + "'", `f:2:1: control.socket: "/` + strings.Repeat("x", 107) + `", want at most 107 bytes, the limit of a unix socket`},
		{"log format", "[log]\nformat = 'xml'", `f:2:1: log.format: "xml", want "auto", "text", "json" or "journal"`},
		{"too long", strings.Repeat("#", maxBytes+1), "f: longer than 1048576 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := Parse([]byte(test.document), "f")
			if c != nil || err == nil {
				t.Fatalf("Parse = %v, %v, want no configuration and an error", c, err)
			}
			if diff := cmp.Diff(test.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseReportsAllProblemsInOrder(t *testing.T) {
	_, err := Parse([]byte("profile='p'\n[log]\nformat='x'\n[kernel]\npins='q'"), "f")
	problems, ok := errors.AsType[Problems](err)
	if !ok {
		t.Fatalf("error is %T, want Problems", err)
	}
	var keys []string
	for _, p := range problems {
		keys = append(keys, p.Key)
	}
	if diff := cmp.Diff([]string{"profile", "log.format", "kernel.pins"}, keys); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

func TestLoadNamesAMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.toml")
	c, err := Load(path)
	if c != nil || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("Load = %v, %v, want ErrNotExist that names %s", c, err, path)
	}
}

func TestLoadReadsTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bpfacq.toml")
	if err := os.WriteFile(path, []byte(full), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil || c.Profile != "/p.json" {
		t.Errorf("Load = %+v, %v", c, err)
	}
}

func TestTheIPv6PoolIsThePrefixOrNone(t *testing.T) {
	for prefix, want := range map[string]string{
		"":                      "invalid Prefix",
		"fd00:1:2:3::/64":       "fd00:1:2:3::/64",
		"fd00::ffff:0:0/112":    "fd00::ffff:0:0/112",
		"FD6B:7066:6163:0::/64": "fd6b:7066:6163::/64",
	} {
		c, err := Parse([]byte("[fqdn]\nsynthetic-ipv6 = '"+prefix+"'"), "f")
		if err != nil {
			t.Errorf("Parse: %v", err)
			continue
		}
		if got := c.FQDN.Pool6().String(); got != want {
			t.Errorf("pool of %q is %s, want %s", prefix, got, want)
		}
	}
}

func TestChangesNameKeysAndRestarts(t *testing.T) {
	next, err := Parse([]byte(full), "f")
	if err != nil {
		t.Fatal(err)
	}
	old := Default()
	want := []Change{
		{"profile", false}, {"state-dir", true},
		{"kernel.cgroup", true}, {"kernel.pins", true}, {"kernel.lease", true},
		{"edges.allow", false}, {"edges.ca-file", false}, {"edges.cleartext", false},
		{"edges.token-file", false}, {"edges.connections", false}, {"edges.transport", false}, {"edges.addresses", false},
		{"fqdn.acquire", false}, {"fqdn.also-match-original-ip", false}, {"fqdn.synthetic-ipv6", false},
		{"packet.uplinks", true}, {"packet.containers", true},
		{"packet.udp-idle", true}, {"packet.udp-stream-idle", true}, {"packet.udp-flows", true},
		{"relay.external-listener", true}, {"relay.external-cgroup", true}, {"relay.drain", true},
		{"control.socket", true}, {"metrics.listen", true},
		{"log.level", false}, {"log.format", true},
	}
	if diff := cmp.Diff(want, old.Changes(next)); diff != "" {
		t.Errorf("Changes (-want +got):\n%s", diff)
	}
	if changes := next.Changes(next); len(changes) != 0 {
		t.Errorf("Changes of itself = %v", changes)
	}
}

func TestChangesHoldEmptyForAbsent(t *testing.T) {
	old, next := Default(), Default()
	next.Edges.Allow, next.Edges.Addresses = []string{}, map[string]string{}
	if changes := old.Changes(&next); len(changes) != 0 {
		t.Errorf("Changes = %v, want none", changes)
	}
}

func TestTokenIsReadOnlyFromAPrivateFile(t *testing.T) {
	for _, test := range []struct {
		name, content string
		mode          fs.FileMode
		want          string
		err           error
	}{
		{"one line", "abc.def\n", 0o600, "abc.def", nil},
		{"readable by group", "abc.def\n", 0o640, "", ErrTokenExposed},
		{"readable by others", "abc.def\n", 0o604, "", ErrTokenExposed},
		{"empty", "\n", 0o600, "", ErrTokenForm},
		{"two lines", "abc\r\nX-Header: y", 0o600, "", ErrTokenForm},
		{"not ASCII", "ab\u00e9", 0o600, "", ErrTokenForm},
		{"too long", strings.Repeat("x", maxToken+1), 0o600, "", ErrTokenForm},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := Edges{TokenFile: filepath.Join(t.TempDir(), "token")}
			if err := os.WriteFile(e.TokenFile, []byte(test.content), test.mode); err != nil {
				t.Fatal(err)
			}
			got, err := e.Token()
			if got != test.want || !errors.Is(err, test.err) {
				t.Errorf("Token = %q, %v, want %q, %v", got, err, test.want, test.err)
			}
			if err != nil && strings.Contains(err.Error(), "abc") {
				t.Errorf("the error shows the token: %v", err)
			}
		})
	}
	if token, err := (&Edges{}).Token(); token != "" || err != nil {
		t.Errorf("Token without a file = %q, %v", token, err)
	}
	if _, err := (&Edges{TokenFile: "/nonexistent/token"}).Token(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Token of a missing file: %v", err)
	}
}

func TestRootsAreThoseOfTheFile(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	want := x509.NewCertPool()
	want.AddCert(cert)

	e := Edges{CAFile: filepath.Join(t.TempDir(), "ca.pem")}
	if err := os.WriteFile(e.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := e.Roots(); err != nil || !want.Equal(got) {
		t.Errorf("Roots = %v, %v, want the certificate of the file", got, err)
	}
	if err := os.WriteFile(e.CAFile, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := e.Roots(); got != nil || !errors.Is(err, ErrNoRoots) {
		t.Errorf("Roots of a file without PEM = %v, %v", got, err)
	}
	if got, err := (&Edges{}).Roots(); got != nil || err != nil {
		t.Errorf("Roots without a file = %v, %v, want the system's", got, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{Example, full, "[kernel]\nlease = 3", "a.b.c = {d=[{e=1}]}", "[[edges.addresses]]\n\"\" = ''", "\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		c, err := Parse(document, "f")
		if (c == nil) == (err == nil) {
			t.Fatalf("Parse = %v, %v, want either", c, err)
		}
		if err == nil {
			return
		}
		problems, ok := errors.AsType[Problems](err)
		if !ok || len(problems) == 0 {
			t.Fatalf("error is %T %v, want Problems", err, err)
		}
		for _, p := range problems {
			if p.File != "f" || p.Text == "" {
				t.Fatalf("problem without place or text: %+v", p)
			}
		}
	})
}
