package doctor

import (
	"errors"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/control"
)

func TestPacketPathIsExamined(t *testing.T) {
	uplinks := func(all ...control.Uplink) func(*testing.T, *fixture) {
		return func(_ *testing.T, f *fixture) { f.status.Packets.Uplinks = all }
	}
	configured := func(packet string) func(*testing.T, *fixture) {
		return func(_ *testing.T, f *fixture) {
			f.write("etc/bpfacq/bpfacq.toml", "[edges]\nallow = ["+quotedEdges()+"]\n[packet]\n"+packet+"\n")
		}
	}
	both := func(all ...func(*testing.T, *fixture)) func(*testing.T, *fixture) {
		return func(t *testing.T, f *fixture) {
			for _, change := range all {
				change(t, f)
			}
		}
	}
	ruleset := func(devices, flags string) func(*testing.T, *fixture) {
		return func(_ *testing.T, f *fixture) {
			delete(f.programs, "nft")
			f.programs["nft --json"] = `{"nftables": [{"flowtable": {"family": "inet", "name": "ft", "table": "fw"}}]}`
			f.programs["nft list"] = "table inet fw {\n\tflowtable ft {\n\t\thook ingress priority filter\n" +
				"\t\tdevices = { " + devices + " }\n\t\t" + flags + "\n\t}\n}\n"
		}
	}
	for _, test := range []struct {
		name   string
		change func(*testing.T, *fixture)
		want   []string
	}{
		{"two uplinks", uplinks(control.Uplink{Name: "eth0", Links: "tcx"}, control.Uplink{Name: "wg0", Links: "clsact"}),
			[]string{"packets ok packets are acquired at eth0 by tcx, wg0 by clsact"}},
		{"no uplink", uplinks(), []string{"packets warning no device is an uplink"}},
		{"uplink that does not work", uplinks(control.Uplink{Name: "eth0", Cause: "no memory"}),
			[]string{"packets warning no packets are acquired at uplink eth0: no memory"}},
		{"programs that somebody detached", uplinks(control.Uplink{Name: "eth0", Links: "tcx", Lost: 3}),
			[]string{"packets warning somebody has detached the programs from uplink eth0, 3 times"}},
		{"channel without datagrams", func(_ *testing.T, f *fixture) { f.status.Channels[0].Datagrams = "no" },
			[]string{`packets note no edge of channel "Private" carries UDP`}},
		{"packet path off", configured("uplinks = []"), []string{
			"packets note packet.uplinks is empty", "flowtables ok packets that the host forwards are not acquired",
		}},
		{"containers off", configured(`containers = "off"`), []string{"flowtables ok packets that the host forwards are not acquired"}},

		{"programs on an uplink without a default route", both(
			uplinks(control.Uplink{Name: "eth0", Links: "tcx"}, control.Uplink{Name: "eth1", Links: "tcx"}),
			func(_ *testing.T, f *fixture) {
				f.network.Links = append(f.network.Links, Link{Index: 9, Name: "eth1"}, Link{Index: 10, Name: "eth2"})
				f.devices = map[int][]Foreign{9: {{Name: "cil_to_netdev", Attach: "TCXEgress"}}, 10: {{Name: "other"}}}
			},
		), []string{
			"packets ok packets are acquired at eth0 by tcx, eth1 by tcx",
			"device-programs note program cil_to_netdev (Cilium) on eth1, TCXEgress: it sees packets beside bpfacq",
		}},
		{"programs on an uplink where packets are not acquired", both(configured("uplinks = []"), func(_ *testing.T, f *fixture) {
			f.devices = map[int][]Foreign{2: {{Name: "mesh", Attach: "TCXEgress"}}}
		}), []string{
			"packets note packet.uplinks is empty",
			"device-programs note program mesh on eth0, TCXEgress: the socket path decides",
			"flowtables ok packets that the host forwards are not acquired",
		}},

		{"flowtable in software", ruleset("eth0, eth1", "flags "), nil},
		{"flowtable of other devices", ruleset(`"eth1"`, "flags offload"), nil},
		{"flowtable of the uplink", ruleset("eth1, eth0", "flags offload"),
			[]string{"flowtables warning flowtable inet fw ft has eth0 forward flows by itself"}},
		{"flowtable with quotes, in the notation of newer releases", ruleset(`"eth0"`, "flags offload;"),
			[]string{"flowtables warning flowtable inet fw ft has eth0 forward"}},
		{"flowtable of a configured uplink, without an agent", both(configured(`uplinks = ["eth7"]`), ruleset("eth0, eth7", "flags offload"),
			func(_ *testing.T, f *fixture) { f.agentErr = errors.New("gone") }), []string{
			"agent failure gone",
			"flowtables warning flowtable inet fw ft has eth7 forward",
		}},
		{"flowtables that are not shown", func(_ *testing.T, f *fixture) {
			delete(f.programs, "nft")
			f.programs["nft --json"] = `{"nftables": [{"flowtable": {"family": "inet", "name": "ft", "table": "fw"}}]}`
		}, []string{"flowtables unknown list flowtables: find nft"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := well(t)
			test.change(t, f)
			expect(t, test.want, changed(well(t).examine(t), f.examine(t)))
		})
	}
}
