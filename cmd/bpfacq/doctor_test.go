package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/doctor"
)

func TestDoctorAnswersInTwoForms(t *testing.T) {
	report := &doctor.Report{Schema: 1, Kernel: "6.1.0", State: doctor.StateWarning, Findings: []doctor.Finding{
		{ID: "kernel", State: doctor.StateOK, Cause: "Linux 6.1.0", Remedy: "not shown"},
		{ID: "jit", State: doctor.StateWarning, Cause: "interpreted", Remedy: "sysctl x=1"},
		{ID: "agent", State: doctor.StateNote, Cause: "no agent\x1b[1m runs"},
		{ID: "bpf", State: doctor.StateUnknown, Cause: "refused", Remedy: "not shown", NeedsRoot: true},
	}}
	table := "CHECK   STATE    FINDING\n" +
		"kernel  ok       Linux 6.1.0\n" +
		"jit     warning  interpreted\n" +
		"                 to do: sysctl x=1\n" +
		"agent   note     \"no agent\\x1b[1m runs\"\n" +
		"bpf     unknown  refused\n" +
		"\n0 failures, 1 warning, 1 unknown, 1 note, 1 ok\n" +
		"as root (sudo bpfacq doctor) these say more: bpf\n"
	json := `{
  "schema": 1,
  "kernel": "6.1.0",
  "state": "warning",
  "checks": [
    {
      "id": "kernel",
      "state": "ok",
      "cause": "Linux 6.1.0",
      "remedy": "not shown"
    },
    {
      "id": "jit",
      "state": "warning",
      "cause": "interpreted",
      "remedy": "sysctl x=1"
    },
    {
      "id": "agent",
      "state": "note",
      "cause": "no agent\u001b[1m runs"
    },
    {
      "id": "bpf",
      "state": "unknown",
      "cause": "refused",
      "remedy": "not shown",
      "needs_root": true
    }
  ]
}
`
	odd := "bpfacq: error: host leaves 2 checks with a warning or unknown\n"
	for _, test := range []struct {
		args []string
		want result
	}{
		{nil, result{0, table, ""}},
		{[]string{"-o", "json"}, result{0, json, ""}},
		{[]string{"--strict"}, result{1, table, odd}},
		{[]string{"--strict", "-o", "json"}, result{1, json, odd}},
	} {
		got := execute(t.Context(), func(e *env) {
			e.examine = func(_ context.Context, config string, named bool) *doctor.Report {
				if config != e.config || named {
					t.Errorf("examined with %q, named %t", config, named)
				}
				return report
			}
		}, append([]string{"doctor"}, test.args...)...)
		if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(result{})); diff != "" {
			t.Errorf("doctor %q (-want +got):\n%s", test.args, diff)
		}
	}
}

func TestDoctorFailsWithTheHost(t *testing.T) {
	for _, test := range []struct {
		name   string
		states []doctor.State
		want   string
	}{
		{"a failure", []doctor.State{doctor.StateOK, doctor.StateFailure, doctor.StateWarning}, "bpfacq: error: host fails 1 check\n"},
		{"two failures", []doctor.State{doctor.StateFailure, doctor.StateFailure}, "bpfacq: error: host fails 2 checks\n"},
	} {
		got := execute(t.Context(), func(e *env) {
			e.examine = func(_ context.Context, config string, named bool) *doctor.Report {
				if !filepath.IsAbs(config) || filepath.Base(config) != "x.toml" || !named {
					t.Errorf("examined with %q, named %t", config, named)
				}
				r := new(doctor.Report)
				for _, s := range test.states {
					r.Findings = append(r.Findings, doctor.Finding{State: s})
				}
				return r
			}
		}, "doctor", "--config", "x.toml")
		if got.status != 1 || got.stderr != test.want {
			t.Errorf("%s: doctor = %+v, want status 1 and %q", test.name, got, test.want)
		}
	}
}

// What others have set up in a namespace is found there, and not before.
func TestDoctorFindsOtherAcquirersOfAHost(t *testing.T) {
	testutil.Privileged(t)
	nft := testutil.Program(t, "nft")
	ns, cgroup := testutil.Netns(t), testutil.Cgroup(t)
	pins := filepath.Join(testutil.BPFFS(t), "bpfacq")
	config := filepath.Join(t.TempDir(), "bpfacq.toml")
	text := fmt.Sprintf("[kernel]\ncgroup = %q\npins = %q\n[control]\nsocket = %q\n", cgroup, pins, filepath.Join(t.TempDir(), "none.sock"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	look := func() map[string]string {
		t.Helper()
		findings := make(map[string]string)
		err := ns.Do(func() error {
			for _, f := range examine(t.Context(), config, true).Findings {
				findings[f.ID] += string(f.State) + " " + f.Cause + "\n"
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return findings
	}
	expect := func(findings map[string]string, want map[string]string) {
		t.Helper()
		for id, text := range want {
			if !strings.HasPrefix(findings[id], text) {
				t.Errorf("%s: %q, want %q", id, findings[id], text)
			}
		}
	}

	untouched := map[string]string{
		"bpf": "ok ", "configuration": "ok ", "cgroup": "ok ", "cgroup-programs": "ok ", "device-programs": "ok ", "tun": "ok ", "wireguard": "ok ",
		"policy-routing": "ok ", "nftables": "ok ", "iptables": "ok ", "flowtables": "ok no flowtables", "pins": "ok nothing is loaded at " + pins, "agent": "note no agent runs: nothing",
	}
	expect(look(), untouched)

	d, err := loader.Load(loader.Options{Cgroup: cgroup, Pins: pins})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	defer d.Detach()
	tun := disturb(t, ns.Do, nft)
	expect(look(), map[string]string{
		"cgroup-programs": "ok ", // the datapath's own are no others
		"wireguard":       "ok ",
		"pins":            "ok 9 programs are attached by " + pins + ": bpfacq_connect4, ",
		"agent":           "warning no agent runs, and its programs are attached",
		"tun":             fmt.Sprintf("warning TUN device tailscale0 (Tailscale, %s, process %d) has a default route", comm(t), os.Getpid()),
		"policy-routing": "note IPv4 rule 5210 sends packets with mark 0x80000/0xff0000 to table 52: bpfacq sets no marks\n" +
			"warning IPv4 rule 5220 sends all packets without mark 0xca6c to table 53:",
		"nftables": "warning table inet proxy, chain out: 1 × redirect:",
	})
	if got, want := look()["nftables"], "note table inet proxy, chain pre: 2 × tproxy: "; !strings.Contains(got, want) {
		t.Errorf("nftables: %q, want %q", got, want)
	}

	for _, f := range tun.Fds {
		f.Close()
	}
	if err := d.Detach(); err != nil {
		t.Fatal(err)
	}
	after := look()
	expect(after, map[string]string{"tun": "ok ", "pins": "ok nothing", "agent": "note "})
}

func comm(t *testing.T) string {
	t.Helper()
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(name))
}

// disturb sets up what other clients do. The device goes with its descriptor.
func disturb(t *testing.T, do func(func() error) error, nft string) *netlink.Tuntap {
	t.Helper()
	const ruleset = `table inet proxy {
	chain pre {
		type filter hook prerouting priority mangle; policy accept;
		meta l4proto tcp tproxy to :1234 accept
		udp dport 53 tproxy ip to 127.0.0.1:1234
	}
	chain out {
		type nat hook output priority -100; policy accept;
		tcp dport 80 redirect to :8080
	}
}`
	tun := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: "tailscale0"}, Mode: netlink.TUNTAP_MODE_TUN, NonPersist: true, Queues: 1,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_ONE_QUEUE,
	}
	all, everywhere := ^uint32(0), &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	rule := netlink.NewRule()
	rule.Priority, rule.Family, rule.Mark, rule.Mask, rule.Table = 5210, unix.AF_INET, 0x80000, new(uint32(0xff0000)), 52
	inverted := netlink.NewRule()
	inverted.Priority, inverted.Family, inverted.Mark, inverted.Mask, inverted.Invert, inverted.Table = 5220, unix.AF_INET, 51820, &all, true, 53
	err := do(func() error {
		if err := netlink.LinkAdd(tun); err != nil {
			return fmt.Errorf("add device: %w", err)
		}
		if err := netlink.LinkSetUp(tun); err != nil {
			return fmt.Errorf("set device up: %w", err)
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: tun.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: everywhere}); err != nil {
			return fmt.Errorf("add route: %w", err)
		}
		for _, r := range []*netlink.Rule{rule, inverted} {
			if err := netlink.RuleAdd(r); err != nil {
				return fmt.Errorf("add rule: %w", err)
			}
		}
		cmd := exec.Command(nft, "-f", "-")
		cmd.Stdin = strings.NewReader(ruleset)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("run nft: %w: %s", err, out)
		}
		return nil
	})
	t.Cleanup(func() {
		for _, f := range tun.Fds {
			f.Close()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return tun
}
