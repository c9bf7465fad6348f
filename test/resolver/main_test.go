// Package resolver tests acquired names with what others wrote: the resolvers
// that C libraries and languages bring along, dig, delv, and programs that
// connect by name, with dnsmasq and unbound as the servers that they ask.
//
// Everything is done twice: without the agent, to know what is usual, and with
// it. What no rule speaks of must not differ.
package resolver

import (
	"os"
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
)

func TestMain(m *testing.M) {
	os.Exit(testutil.Main(m, map[string]testutil.Scenario{
		"agent":   agentScenario,
		"edge":    edgeScenario,
		"lookup":  lookupScenario,
		"ask":     askScenario,
		"refused": refusedScenario,
		"census":  censusScenario,
		"flood":   floodScenario,
		"crowd":   crowdScenario,
	}))
}
