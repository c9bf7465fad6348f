package host

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/profile"
)

// withDatagrams is the sample profile with two more rules, for UDP to the target.
// The hardening of the first is that of the sample's rules: Bypass.
func withDatagrams(t *testing.T) string {
	t.Helper()
	var document map[string]any
	if err := json.Unmarshal([]byte(profile.Sample), &document); err != nil {
		t.Fatal(err)
	}
	policy := document["policy"].(map[string]any)
	rules := policy["rules"].([]any)
	last := rules[len(rules)-1].(map[string]any)
	for _, more := range []struct {
		port      int
		hardening string
	}{{tunnelPort, "Bypass"}, {strictPort, "Block"}} {
		rule := maps.Clone(last)
		criteria := maps.Clone(last["matchingCriteria"].(map[string]any))
		criteria["protocol"] = "Udp"
		criteria["ports"] = []any{map[string]any{"start": more.port, "end": more.port}}
		rule["id"] = fmt.Sprintf("udp-%d", more.port)
		rule["order"] = last["order"].(float64) + float64(more.port)
		rule["matchingCriteria"], rule["hardening"] = criteria, more.hardening
		rules = append(rules, rule)
	}
	policy["rules"] = rules
	text, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// ask sends the target a datagram, and returns which way it went.
func ask(ctx context.Context, port int) (way string, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "udp", net.JoinHostPort(target, strconv.Itoa(port)))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte("which way?")); err != nil {
		return "", err
	}
	var answer [64]byte
	n, err := conn.Read(answer[:])
	return string(answer[:n]), err
}

// untilAnswer waits until datagrams to a port go a way.
func untilAnswer(t *testing.T, port int, way string) {
	t.Helper()
	until(t, func() error {
		got, err := ask(t.Context(), port)
		if err == nil && got != way {
			err = fmt.Errorf("UDP port %d: answer %q, want %q", port, got, way)
		}
		return err
	})
}

// pairs are the names of the agent's devices.
func pairs(t *testing.T) (names []string) {
	t.Helper()
	devices, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, device := range devices {
		if pair.MatchString(device.Name) {
			names = append(names, device.Name)
		}
	}
	return names
}

// packets checks that what leaves by the uplink as packets is acquired there, by
// an agent that is confined by its unit, and that nobody else takes its device for
// one of the host's.
func packets(t *testing.T) {
	defer func() {
		if t.Failed() {
			t.Log(shell(t, "bpfacq status || true; bpfacq flows || true; tc -s filter show dev direct egress || true; journalctl --boot --unit=bpfacq --lines=20 --no-pager || true"))
		}
	}()
	untilAnswer(t, tunnelPort, viaEdge)
	untilAnswer(t, strictPort, viaEdge)
	untilAnswer(t, bypassPort, direct)
	for port, want := range map[int]string{tunnelPort: viaEdge, bypassPort: direct} {
		url := fmt.Sprintf("http://%s:%d", target, port)
		out, err := testutil.Output(t, nil, "", testutil.Command(t, "curl", "-sS", "--max-time", "20", "--interface", direct, url))
		if way := strings.TrimSpace(out); way != want {
			t.Errorf("%s of a bound socket: answer %q, %v, want %q", url, way, err, want)
		}
	}
	flows := strings.ToLower(command(t, "bpfacq", "flows"))
	for _, protocol := range []string{"udp", "tcp"} {
		if !slices.ContainsFunc(strings.Split(flows, "\n"), func(line string) bool {
			return slices.Contains(strings.Fields(line), protocol) && strings.Contains(line, " 10.98.0.1:") &&
				strings.Contains(line, fmt.Sprintf(" %s:%d ", target, tunnelPort))
		}) {
			t.Errorf("no flow of %s has a source:\n%s", protocol, flows)
		}
	}
	all := status(t).Packets.Uplinks
	if len(all) != 1 || all[0].Name != direct || all[0].State != "up" || !slices.Equal(pairs(t), []string{all[0].Pair}) {
		t.Fatalf("uplinks are %+v, devices %q", all, pairs(t))
	}
	until(t, func() error { // networkd and udevd hear of it by themselves
		known := shell(t, "udevadm settle; udevadm info /sys/class/net/"+all[0].Pair+"; networkctl --no-legend --no-pager list "+all[0].Pair)
		if !strings.Contains(known, "E: NM_UNMANAGED=1\n") || !strings.HasSuffix(strings.TrimSpace(known), " unmanaged") {
			return fmt.Errorf("%s is managed:\n%s", all[0].Pair, known)
		}
		return nil
	})
}

// packetsWithoutAgent checks that the device is gone with an agent that was killed,
// and packets follow their rule's hardening, until there is another one.
func packetsWithoutAgent(t *testing.T) {
	untilAnswer(t, tunnelPort, viaEdge)
	back := killForGood(t)
	until(t, func() error {
		if left := pairs(t); left != nil {
			return fmt.Errorf("devices are left: %q", left)
		}
		return nil
	})
	if way, err := ask(t.Context(), strictPort); err == nil {
		t.Errorf("UDP port %d: answer %q after the agent was killed", strictPort, way)
	}
	untilAnswer(t, tunnelPort, direct)
	if way, err := ask(t.Context(), strictPort); err == nil {
		t.Errorf("UDP port %d: answer %q without an agent", strictPort, way)
	}
	back()
	packets(t)
}
