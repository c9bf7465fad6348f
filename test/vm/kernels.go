package main

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/bpfacq/bpfacq/test/vm/image"
	"github.com/bpfacq/bpfacq/test/vm/kernel"
	"github.com/bpfacq/bpfacq/test/vm/matrix"
)

// kernels runs the privileged tests on the kernels of the named series, or on
// all that the project knows.
func kernels(ctx context.Context, env environment, series []string) error {
	return matrix.Run(ctx, matrix.Options{
		Top:    env.folder,
		Folder: filepath.Join(env.folder, ".build", "vm"),
		Kernels: []matrix.Kernel{
			{Series: "5.10", Leaving: true}, {Series: "6.1"}, {Series: "6.12"}, {Series: "6.18", Leaving: true}, {Series: kernel.Newest},
		},
		Choice:   series,
		Image:    testImage(env),
		Packages: privileged(),
		Flags:    []string{"-test.short", "-test.skip=^(" + strings.Join(indifferent(), "|") + ")$"},
		Modules:  testModules(),
		Update:   env.getenv("UPDATE") == "1",
		Output:   env.stdout,
	})
}

// privileged are the packages whose tests ask the kernel.
func privileged() []string {
	return []string{
		"./test/testutil", "./userspace/netns", "./userspace/device", "./userspace/dns", "./userspace/listen", "./userspace/doctor",
		"./userspace/container", "./userspace/enclave", "./userspace/uplink", "./userspace/datagram",
		"./maps", "./loader", "./loader/bpffs", "./cmd/bpfacq", "./test/e2e",
	}
}

// indifferent are tests of test/e2e that run on this machine only: they are about
// edges, channels and answers of the agent, and ask nothing of the kernel that others
// do not ask. Emulated they take minutes.
func indifferent() []string {
	return []string{
		"TestAgentAnswersWhatItDoes",
		"TestAgentIsReadyBeforeItsEdgesAreFound",
		"TestAgentThatDoesNotStartIsNotReady",
		"TestAgentWhoseMetricsHaveNoAddressDoesNotStart",
		"TestChannelThatIsDownResetsUntilItsEdgeIsBack",
		"TestEdgeOfAnotherAuthorityIsNotTrusted",
		"TestEdgesOfOthersCarryFlows",
		"TestQuietFlowStaysOpen",
		"TestRefusalResetsTheFlowWithItsStatus",
		"TestSecondaryEdgeServesWhileAllPrimariesFail",
		"TestTenThousandFlowsAtOnceThroughAnEdge",
	}
}

// testImage has the programs that tests run.
func testImage(env environment) image.Spec {
	return image.Spec{
		Name:  "kernels",
		Suite: "bookworm",
		Packages: []string{
			"curl", "dropbear-bin", "iproute2", "nftables", "openssh-client", "python3", "redsocks", "squid",
		},
		Size:     1 << 30,
		Progress: env.stdout,
	}
}

// testModules are those that tests need where they are not built in. Nothing in
// the machine loads one by itself.
func testModules() []string {
	return []string{
		"veth", "dummy", "tun", "bridge", "8021q", "bonding", "macvlan", "vxlan",
		"sch_ingress", "cls_bpf", "cls_u32", "act_bpf",
		"nf_tables", "nft_chain_nat", "nft_counter", "nft_ct", "nft_masq", "nft_nat", "nft_objref", "nft_redir", "nft_reject_inet", "nft_socket", "nft_tproxy",
		"nf_conntrack_netlink",
		"inet_diag", "tcp_diag", "udp_diag",
		"tls", "wireguard",
	}
}
