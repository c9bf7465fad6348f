package e2e

import (
	"os"
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
)

func TestMain(m *testing.M) {
	os.Exit(testutil.Main(m, map[string]testutil.Scenario{
		"acceptor":   acceptorScenario,
		"connect":    connectScenario,
		"storm":      stormScenario,
		"crowd":      crowdScenario,
		"connecting": connectingScenario,
		"probe":      probeScenario,
		"fate":       fateScenario,
		"relay":      relayScenario,
		"agent":      agentScenario,
		"resolving":  resolvingScenario,
		"journal":    journalScenario,
		"edge":       edgeScenario,
		"exchange":   exchangeScenario,
		"listener":   listenerScenario,
		"abort":      abortScenario,
		"press":      pressScenario,
		"speaker":    speakerScenario,
		"fetch":      fetchScenario,

		"datagram":    datagramScenario,
		"dns-sockets": dnsSocketsScenario,
		"flood":       floodScenario,
		"names":       namesScenario,
	}))
}
