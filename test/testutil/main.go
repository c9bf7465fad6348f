package testutil

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// Main runs a package's tests and returns the exit code. They fail, too, if
// they leave a goroutine or a file descriptor behind. A process that
// [ScenarioCommand] started runs its scenario instead. Use it as
//
//	func TestMain(m *testing.M) { os.Exit(testutil.Main(m, scenarios)) }
//
// where the table of scenarios may be nil.
func Main(m *testing.M, scenarios map[string]Scenario) int {
	if name, ok := os.LookupEnv(scenarioKey); ok {
		if err := runScenario(scenarios[name], os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			return 1
		}
		return 0
	}

	before, err := descriptors()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if code := m.Run(); code != 0 {
		return code
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := before.leaked(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
