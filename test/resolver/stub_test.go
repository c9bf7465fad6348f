package resolver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// lookupScenario prints the addresses that Go's own resolver finds for a name,
// one in a line, and nothing for a name that does not exist.
func lookupScenario(args []string, stdout io.Writer) error {
	resolver := net.Resolver{PreferGo: true}
	addrs, err := resolver.LookupNetIP(context.Background(), "ip", args[0])
	if missing, ok := errors.AsType[*net.DNSError](err); ok && missing.IsNotFound {
		return nil
	}
	for _, addr := range addrs {
		fmt.Fprintln(stdout, addr.Unmap())
	}
	return err
}

// stub is one of the resolvers that applications bring along. Its command ends
// well, prints the addresses of a name as the first words of lines, and none for
// a name that does not exist.
type stub struct {
	name string
	only func(netip.Addr) bool // of a stub that asks for one family; nil is both
	find func(t testing.TB, name string) *exec.Cmd
}

// addresses are those that the stub gives an application for a name.
func (s stub) addresses(t testing.TB, b *bed, name string) []string {
	t.Helper()
	text, err := b.run(t, s.find(t, name))
	if err != nil {
		t.Fatalf("%s: look up %s: %v", s.name, name, err)
	}
	var found []string
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > 0 {
			found = append(found, fields[0])
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// of keeps those addresses that the stub asks for, in the order in which
// addresses returns them.
func (s stub) of(addrs ...string) []string {
	var kept []string
	for _, addr := range addrs {
		if s.only == nil || s.only(netip.MustParseAddr(addr)) {
			kept = append(kept, addr)
		}
	}
	slices.Sort(kept)
	return kept
}

// stubs are all that are tested.
func (b *bed) stubs(t testing.TB) []stub {
	t.Helper()
	getent := func(database string) func(testing.TB, string) *exec.Cmd {
		return func(t testing.TB, name string) *exec.Cmd {
			// getent says by 2 that there is nothing.
			return b.program(t, "sh", "-c", `getent "$0" "$1" || test $? = 2`, database, name)
		}
	}
	musl := b.compileMusl(t)
	return []stub{
		{name: "getent ahosts", find: getent("ahosts")},
		{name: "getent ahostsv4", find: getent("ahostsv4"), only: netip.Addr.Is4},
		{name: "python", find: func(t testing.TB, name string) *exec.Cmd {
			return b.program(t, "python3", testdata(t, "lookup.py"), name)
		}},
		{name: "go", find: func(t testing.TB, name string) *exec.Cmd { return b.scenario(t, "lookup", name) }},
		{name: "dig", find: func(t testing.TB, name string) *exec.Cmd {
			return b.program(t, "dig", "+short", name, "A", name, "AAAA")
		}},
		{name: "musl", find: func(t testing.TB, name string) *exec.Cmd { return b.program(t, musl, name) }},
		{name: "c-ares", find: func(t testing.TB, name string) *exec.Cmd { return b.node(t, "lookup.js", name) }},
	}
}

// node is a script of this package's, without the certificates that the machine
// may want node to read.
func (b *bed) node(t testing.TB, script string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := b.program(t, "node", append([]string{testdata(t, script)}, args...)...)
	cmd.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS=")
	return cmd
}

// compileMusl builds the program that asks musl's resolver.
func (b *bed) compileMusl(t testing.TB) string {
	t.Helper()
	path := filepath.Join(b.folder, "lookup-musl")
	cmd := testutil.Command(t, testutil.Program(t, "musl-gcc"), "-static", "-o", path, testdata(t, "lookup.c"))
	if out, err := testutil.Output(t, nil, "", cmd); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	return path
}

// testdata is the path of a file of this package's.
func testdata(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// The same names, asked in the same ways: as usual without the agent, by rules
// with it, as usual again when it is dead, and as before when it is back.
func TestStubsFollowTheRulesWhileTheAgentLives(t *testing.T) {
	b := newBed(t)
	b.startDnsmasq(t)
	b.startEdge(t)
	stubs := b.stubs(t)
	checkUsual(t, b, stubs)

	b.start(t)
	acquired := make(map[string]string)
	for _, s := range stubs {
		for _, name := range []string{webName, nowhere, safeName} {
			got := s.addresses(t, b, name)
			if len(got) != 1 || !inPool(got[0]) {
				t.Errorf("%s: %s has %q, want one synthetic address", s.name, name, got)
				continue
			}
			if first, ok := acquired[name]; ok && first != got[0] {
				t.Errorf("%s: %s has %s, others say %s", s.name, name, got[0], first)
			}
			acquired[name] = got[0]
		}
		for name, want := range bypassed() {
			if diff := cmp.Diff(s.of(want...), s.addresses(t, b, name)); diff != "" {
				t.Errorf("%s: %s, of which no rule speaks:\n%s", s.name, name, diff)
			}
		}
	}
	if n := len(distinct(acquired)); n != 3 {
		t.Errorf("3 names have %d addresses: %v", n, acquired)
	}

	b.kill(t)
	checkUsual(t, b, stubs)

	b.start(t)
	for name, want := range acquired {
		if got := stubs[0].addresses(t, b, name); !slices.Equal(got, []string{want}) {
			t.Errorf("%s has %q after a restart, want %s as before", name, got, want)
		}
	}
}

// checkUsual wants what the server says.
func checkUsual(t *testing.T, b *bed, stubs []stub) {
	t.Helper()
	names := bypassed()
	names[webName] = []string{webAddr, webAddr6}
	names[safeName] = []string{safeAddr}
	names[nowhere] = nil
	for _, s := range stubs {
		for name, want := range names {
			if diff := cmp.Diff(s.of(want...), s.addresses(t, b, name)); diff != "" {
				t.Errorf("%s: %s without the agent:\n%s", s.name, name, diff)
			}
		}
	}
}

// bypassed are names that no Tunnel rule covers first.
func bypassed() map[string][]string {
	return map[string][]string{
		openName:          {openAddr},
		plainName:         {plainAddr, plainAddr6},
		"corp.example":    nil, // the rule wants something before the dot
		"webcorp.example": nil,
		"a." + freeName:   {freeAddr, freeAddr6},
		"missing.example": nil,
	}
}

func inPool(addr string) bool {
	parsed, err := netip.ParseAddr(addr)
	return err == nil && netip.MustParsePrefix(pool).Contains(parsed)
}

// distinct are the values of a table, each once.
func distinct(table map[string]string) map[string]bool {
	values := make(map[string]bool)
	for _, value := range table {
		values[value] = true
	}
	return values
}
