package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// connectingScenario connects until its standard input ends, and prints how many
// connections it made and how many met a mixture of policies: rule 0 belongs to
// odd generations and rule 1 to even ones.
func connectingScenario(_ []string, stdout io.Writer) error {
	var ended atomic.Bool
	var made, mixed atomic.Int64
	var all errgroup.Group
	for w := range 4 {
		all.Go(func() error {
			for n := 0; !ended.Load(); n++ {
				to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, byte(w), byte(n)}), 80)
				line, err := askOnce(to)
				if err != nil {
					return fmt.Errorf("connection to %s: %w", to, err)
				}
				var addr string
				var rule, generation int
				if _, err := fmt.Sscanf(line, "%s rule %d generation %d", &addr, &rule, &generation); err != nil {
					return fmt.Errorf("read %q: %w", line, err)
				}
				made.Add(1)
				if addr != to.String() || rule != (generation+1)%2 {
					mixed.Add(1)
				}
			}
			return nil
		})
	}
	all.Go(func() error {
		_, err := io.Copy(io.Discard, os.Stdin)
		ended.Store(true)
		return err
	})
	if err := all.Wait(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(stdout, "made %d mixed %d\n", made.Load(), mixed.Load())
	return err
}

func TestNoConnectSeesAMixedPolicy(t *testing.T) {
	b := newBed(t)
	odd := compile(t, tunnel("192.168.0.0/16"))
	second := tunnel("10.0.0.0/8", "192.168.0.0/16")
	second.Rules[0].Action = policy.ActionBypass
	even := compile(t, second)
	flips := 250
	if testing.Short() {
		flips = 8
	}

	b.store(t, odd)
	before := b.counters(t, nil)
	acquired := func() int { return int(b.counters(t, before)["acquire"]) }
	cmd := testutil.ScenarioCommand(t, "connecting")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	testutil.Start(t, b.ns, b.cgroup, cmd)
	// On a busy machine connections may be slow, and then meet more flips.
	last := uint32(flips)
	for generation := uint32(2); generation <= last; generation++ {
		tables := odd
		if generation%2 == 0 {
			tables = even
		}
		if got := b.store(t, tables); got != generation {
			t.Fatalf("generation %d, want %d", got, generation)
		}
		if generation == last && int(last) < 10*flips && acquired() < 10*flips {
			last++
		}
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}

	var made, mixed int
	if _, err := fmt.Sscanf(stdout.String(), "made %d mixed %d", &made, &mixed); err != nil {
		t.Fatal(err)
	}
	if mixed != 0 || made < 10*flips {
		t.Errorf("%d connections of %d met a mixture, want 0 of at least %d", mixed, made, 10*flips)
	}
	n := b.counters(t, before)
	for name, value := range n {
		if strings.HasPrefix(name, "bug_") || strings.HasPrefix(name, "pass_") {
			t.Errorf("counter %s is %d, want 0", name, value)
		}
	}
	t.Logf("%d connections over %d flips", made, last)
}
