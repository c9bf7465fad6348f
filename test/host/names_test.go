package host

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// lookUp is how programs of the host look names up. All ways lead to
// systemd-resolved, which asks the resolver of the link "direct" over a socket that
// is bound to the link while it connects.
type lookUp []string // a command line, without the name

func lookUps() []lookUp {
	return []lookUp{
		{"resolvectl", "query", "--legend=no"},
		{"getent", "--service=resolve", "ahosts"},
		{"getent", "--service=dns", "ahosts"}, // by way of 127.0.0.53
	}
}

// addresses asks for a name.
func (l lookUp) addresses(t *testing.T, name string) []netip.Addr {
	t.Helper()
	out, _ := testutil.Output(t, nil, "", testutil.Command(t, l[0], append(l[1:], name)...))
	return addressesIn(out)
}

var address = regexp.MustCompile(`\b[0-9]+(\.[0-9]+){3}\b|\b[0-9a-f]*:[0-9a-f:]+\b`)

// addressesIn finds the addresses in a command's output, each once.
func addressesIn(out string) (found []netip.Addr) {
	for _, text := range address.FindAllString(out, -1) {
		if addr, err := netip.ParseAddr(text); err == nil && !slices.Contains(found, addr) {
			found = append(found, addr)
		}
	}
	return found
}

// wantAddress checks that every way to look up a name finds one address, and
// returns it.
func wantAddress(t *testing.T, name string, want netip.Prefix) (found netip.Addr) {
	t.Helper()
	for _, l := range lookUps() {
		got := l.addresses(t, name)
		if len(got) != 1 || !want.Contains(got[0]) || found.IsValid() && got[0] != found {
			t.Errorf("%s says that %s has addresses %v, want one of %v, and always the same", l, name, got, want)
			continue
		}
		found = got[0]
	}
	return found
}

// pool is where the sample profile has its synthetic addresses.
func pool() netip.Prefix { return netip.MustParsePrefix("6.6.0.0/16") }

// realAddress is where the host's resolver says that all names are that it knows.
func realAddress() netip.Prefix { return netip.PrefixFrom(netip.MustParseAddr(target), 32) }

// ordinaryNames checks that names have the addresses that the host's resolver
// knows, and no others.
func ordinaryNames(t *testing.T) {
	shell(t, "resolvectl flush-caches")
	wantAddress(t, bypassName, realAddress())
	for _, l := range lookUps() {
		if got := l.addresses(t, tunnelName); got != nil {
			t.Errorf("%s says that %s has addresses %v, want none", l, tunnelName, got)
		}
	}
}

const syntheticFile = kept + "/synthetic"

// acquiredNames checks that a name of a Tunnel rule has a synthetic address, always
// the same, and leads through the edge, and that others are as ever.
func acquiredNames(t *testing.T) {
	shell(t, "resolvectl flush-caches")
	wantAddress(t, bypassName, realAddress())
	got := wantAddress(t, tunnelName, pool()).String()
	before, err := os.ReadFile(syntheticFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		write(t, syntheticFile, got)
	case err != nil:
		t.Fatal(err)
	case got != string(before):
		t.Errorf("%s had address %s, has %s", tunnelName, before, got)
	}
	for url, want := range map[string]string{"http://" + tunnelName: viaEdge, "http://" + bypassName + ":81": direct} {
		out, err := testutil.Output(t, nil, "", testutil.Command(t, "curl", "-sS", "--max-time", "20", url))
		if way := strings.TrimSpace(out); way != want {
			t.Errorf("%s: answer %q, %v, want %q", url, way, err, want)
		}
	}
}

// globalServer checks that names are acquired, too, if resolved's server is not
// that of a link, so that its sockets are bound to none.
func globalServer(t *testing.T) {
	const file = "/run/systemd/resolved.conf.d/global.conf"
	t.Run("only", func(t *testing.T) {
		defer func() { shell(t, "rm "+file+"; resolvectl revert direct; systemctl restart systemd-resolved") }()
		write(t, file, "[Resolve]\nDNS=10.98.0.2\n")
		shell(t, "resolvectl dns direct ''; systemctl restart systemd-resolved")
		if out := command(t, "resolvectl", "dns"); !strings.Contains(out, "Global: 10.98.0.2\n") || !strings.Contains(out, "(direct):\n") {
			t.Errorf("resolved has the servers\n%s", out)
		}
		acquiredNames(t)
	})
	t.Run("no more", acquiredNames)
}

// namesWithoutAgent checks that an agent that was killed, and does not come back,
// leaves names to the host's resolver: as fast as ever, and before its lease lapses.
func namesWithoutAgent(t *testing.T) {
	const lease = 3 * time.Second
	asked := 0
	ask := func() (took time.Duration, err error) {
		asked++
		begun := time.Now()
		name := fmt.Sprintf("name%d%s", asked, publicNames) // nobody's cache has it
		if got := lookUps()[0].addresses(t, name); len(got) != 1 || !realAddress().Contains(got[0]) {
			err = fmt.Errorf("%s has addresses %v, want %s", name, got, target)
		}
		return time.Since(begun), err
	}
	usual, err := ask()
	if err != nil {
		t.Fatal(err)
	}
	back := killForGood(t)
	defer func() {
		back()
		acquiredNames(t)
	}()
	killed := time.Now()
	until(t, func() error {
		_, err := ask()
		return err
	})
	after := time.Since(killed)
	took, err := ask()
	t.Logf("names were back after %v; one took %v before, %v after", after, usual, took)
	// The rest is for programs that start, on an emulated processor.
	if err != nil || after > lease || took > usual+time.Second {
		t.Errorf("names were back after %v, of which a look-up took %v, was %v: %v", after, took, usual, err)
	}
	ordinaryNames(t)
}

// cacheFlushed checks that a change of the policy empties resolved's cache if the
// profile wants that, and only then.
func cacheFlushed(t *testing.T) {
	good, err := os.ReadFile(configured)
	if err != nil {
		t.Fatal(err)
	}
	const off, on = `"policyUpdateFlushOsCache": false`, `"policyUpdateFlushOsCache": true`
	if !strings.Contains(string(good), off) {
		t.Fatalf("the sample profile lacks %s", off)
	}
	defer func() {
		write(t, configured, string(good))
		shell(t, "systemctl reload bpfacq")
	}()
	command(t, "resolvectl", "query", bypassName)
	shell(t, "systemctl reload bpfacq")
	if n := cacheSize(t); n == "0" {
		t.Error("the cache was emptied, though the profile does not say so")
	}
	write(t, configured, strings.Replace(string(good), off, on, 1))
	shell(t, "systemctl reload bpfacq")
	until(t, func() error {
		if n := cacheSize(t); n != "0" {
			return fmt.Errorf("the cache has %s entries, want none", n)
		}
		return nil
	})
}

// cacheSize is how many entries resolved's cache has.
func cacheSize(t *testing.T) string {
	t.Helper()
	out := command(t, "resolvectl", "statistics")
	_, after, found := strings.Cut(out, "Current Cache Size:")
	if !found {
		t.Fatalf("resolvectl says\n%s", out)
	}
	return strings.Fields(after)[0]
}

func TestAddressesAreFoundInOutput(t *testing.T) {
	const out = "aps.example.com: 192.168.11.200 -- link: direct\n                 2001:db8::1\n" +
		"192.168.11.200  STREAM aps.example.com\n192.168.11.200  DGRAM\n-- Data from: network 12:30\n"
	want := []netip.Addr{netip.MustParseAddr("192.168.11.200"), netip.MustParseAddr("2001:db8::1")}
	if diff := cmp.Diff(want, addressesIn(out), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if got := addressesIn("1.2.3 and 999.1.1.1"); got != nil {
		t.Errorf("got %v, want none", got)
	}
}
