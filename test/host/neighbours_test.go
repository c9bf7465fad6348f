package host

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/userspace/netns"
)

// rules let out what the host itself needs, and the agent's way to its edge.
// Acquired flows need no more than loopback.
const ruleset = `#!/usr/sbin/nft -f
flush ruleset
table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		iif lo accept
		ct state established,related accept
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
	chain output {
		type filter hook output priority filter; policy drop;
		oif lo accept
		ct state established,related accept
		ip daddr 10.99.0.2 tcp dport 443 accept
	}
}
`

// firewall checks that the agent works behind a firewall that drops by default.
// What the profile does not name is the firewall's to judge.
func firewall(t *testing.T) {
	const file = "/etc/nftables.conf"
	own, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	mode, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(ruleset), mode.Mode()); err != nil {
		t.Fatal(err)
	}
	shell(t, "systemctl start nftables; systemctl restart bpfacq")
	loaded := command(t, "nft", "list", "ruleset")
	channelUp(t)
	wantWay(t, tunnelPort, viaEdge)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if way, err := fetch(ctx, bypassPort); err == nil {
		t.Errorf("port %d: answer %q through the firewall", bypassPort, way)
	}
	if now := command(t, "nft", "list", "ruleset"); now != loaded {
		t.Errorf("ruleset was\n%s\nis\n%s", loaded, now)
	}
	shell(t, "systemctl stop nftables")
	if err := os.WriteFile(file, own, mode.Mode()); err != nil {
		t.Fatal(err)
	}
	tunnelAndBypass(t)
}

const networkFile = kept + "/network.json"

// pair is the name of a device of the agent's: the host's end of a pair.
var pair = regexp.MustCompile(`\bacq[0-9]+\b`)

// withoutPairs leaves out the agent's devices, which come and go with it, and
// their settings.
func withoutPairs(s netns.Snapshot) netns.Snapshot {
	for _, text := range []*string{&s.Links, &s.Sysctls} {
		kept := slices.Collect(strings.Lines(*text))
		*text = strings.Join(slices.DeleteFunc(kept, pair.MatchString), "")
	}
	return s
}

// networkUntouched checks that the network is as it was before the package came,
// but for the agent's pairs, and as systemd-networkd wants it.
func networkUntouched(t *testing.T) {
	wantUnit(t, "systemd-networkd.service", "active")
	for line := range strings.Lines(command(t, "networkctl", "--no-legend", "--no-pager", "list")) {
		fields := strings.Fields(line)
		if len(fields) != 5 {
			t.Fatalf("networkctl says %q", line)
		}
		switch name, state, setup := fields[1], fields[3], fields[4]; name {
		case "lo":
		case "uplink", "direct":
			if state != "routable" || setup != "configured" {
				t.Errorf("%s is %s, %s", name, state, setup)
			}
		default:
			if !pair.MatchString(name) || setup != "unmanaged" {
				t.Errorf("networkctl lists %q", line)
			}
		}
	}
	text, err := os.ReadFile(networkFile)
	if err != nil {
		t.Fatal(err)
	}
	var before netns.Snapshot
	if err := json.Unmarshal(text, &before); err != nil {
		t.Fatal(err)
	}
	if diff := before.Diff(withoutPairs(networkState(t))); diff != "" {
		t.Errorf("the network changed:\n%s", diff)
	}
	if before, now := recalled(t).Resolver, resolverState(t); before != now {
		t.Errorf("the resolver was\n%s\nis\n%s", before, now)
	}
}

// exposure checks what systemd thinks of the units' confinement, from 0 to 10.
func exposure(t *testing.T) {
	for _, unit := range []string{agentUnit, edgeUnitName} {
		out := command(t, "systemd-analyze", "security", "--no-pager", unit)
		level := "?"
		for line := range strings.Lines(out) {
			if _, after, found := strings.Cut(line, "Overall exposure level for "+unit+": "); found {
				level = strings.Fields(after)[0]
			}
		}
		t.Logf("exposure level of %s: %s", unit, level)
		var figure float64
		if _, err := fmt.Sscan(level, &figure); err != nil || figure > 3.0 {
			t.Errorf("exposure level of %s is %s, want at most 3.0\n%s", unit, level, out)
		}
	}
}
