package main

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
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
		Flags:    []string{"-test.short", skip()},
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

// indifferent are tests, by their package, that run on this machine only. They are about
// the agent, the edges, the tunnel or the command line, and what they ask of a kernel
// others ask as well; or they repeat that, once for each step. Emulated they would take
// more time than all others.
func indifferent() map[string][]string {
	return map[string][]string{
		"./cmd/bpfacq": {"TestScripts"},
		"./loader": {
			"TestAttachKilledAtAnyStepCanBeRepeated",
			"TestLoadKilledAtAnyStepLeavesOldStateOrNew",
			"TestPinsThatSomebodyChangedAreRepairedOrNamed",
			"TestReplacementKilledAtAnyStepKeepsUplinks",
			"TestStoreKilledAtAnyStepLeavesOldPolicyOrNew",
		},
		"./test/e2e": {
			"TestAddressesAreAcquiredWithoutAStateFolder",
			"TestAgentAcquiresWithOneOfItsTwoProfiles",
			"TestAgentAnswersWhatItDoes",
			"TestAgentDoesNotStartWithAnEdgeThatIsNotAllowed",
			"TestAgentIsReadyBeforeItsEdgesAreFound",
			"TestAgentThatDoesNotStartIsNotReady",
			"TestAgentWhoseMetricsHaveNoAddressDoesNotStart",
			"TestAgentWithoutAnyGoodProfileDoesNotStart",
			"TestAppliedPolicyIsWholeOrNotAtAll",
			"TestBytesArriveAsTheyWereSent",
			"TestChannelThatIsDownResetsUntilItsEdgeIsBack",
			"TestClientsOfOthersAreAcquired",
			"TestDatagramsDoNotNeedQUIC",
			"TestEdgeOfAnotherAuthorityIsNotTrusted",
			"TestEdgeWithoutDatagramsLeavesThemToHardening",
			"TestEdgesOfOthersCarryFlows",
			"TestEveryTransportCarriesDatagramsAndStreams",
			"TestHalfCloseReachesTheOtherSide",
			"TestHangupReloadsTheProfile",
			"TestHardeningDecidesForNamesWithoutAnEdge",
			"TestJournalTakesTheFieldsOfALog",
			"TestNameIsAcquiredByItsOriginalAddressIfTheConfigurationSaysSo",
			"TestNameThatNobodyResolvesIsAcquired",
			"TestNamesHaveIPv6AddressesIfTheConfigurationSaysSo",
			"TestNamesKeepTheirAddressesThroughCrashes",
			"TestPoolOnARouteIsRejected",
			"TestPrivateNamesAreAskedThroughTheTunnel",
			"TestProfileWithoutNamesTakesNoQueries",
			"TestQueryOfAPersonShowsEachHop",
			"TestQuietFlowStaysOpen",
			"TestRedsocksCanBeTheRelay",
			"TestRefusalResetsTheFlowWithItsStatus",
			"TestReloadChangesTheVerdictOfAName",
			"TestReloadTakesUpTheConfiguration",
			"TestResetReachesTheOtherSide",
			"TestRulesBeyondTheRoomOfTheTablesAreObeyed",
			"TestSecondaryEdgeServesWhileAllPrimariesFail",
			"TestServerAtASyntheticAddressIsThatOfTheName",
			"TestServerThatARuleCoversIsAskedThroughItsChannel",
			"TestServiceManagerIsToldWhatTheAgentIsAt",
			"TestTenThousandFlowsAtOnceThroughAnEdge",
			"TestWatchdogIsFedByARunningAgentAlone",
		},
	}
}

// skip is the flag that leaves the indifferent tests out.
func skip() string {
	names := slices.Concat(slices.Collect(maps.Values(indifferent()))...)
	slices.Sort(names)
	return "-test.skip=^(" + strings.Join(names, "|") + ")$"
}

// testImage has the programs that tests run.
func testImage(env environment) image.Spec {
	return image.Spec{
		Name:     "kernels",
		Suite:    "bookworm",
		Packages: []string{"curl", "iproute2", "netbase", "nftables", "python3"},
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
