// Package host tests bpfacq as its users have it: installed from the package,
// on a whole Debian with systemd as process 1. Its tests change the machine that
// they run on, so they run only where test/vm/systemd starts them: inside a
// virtual machine that is thrown away (make vmtest-systemd).
//
// To add a case, write a function and name it in the list of its boot.
package host

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// What test/vm/systemd and its image agree upon with this package.
const (
	bootKey = "BPFACQ_BOOT"          // in the environment: the number of this boot, from 1
	again   = "/run/vmtest-again"    // made to ask for one more boot
	kept    = "/var/lib/vmtest"      // outlives the boots
	source  = "../.."                // the repository's top
	work    = "/root/download"       // where a user would have put the package
	sample  = work + "/profile.json" // the sample profile
)

// boots names the test of each boot, in order.
func boots() (names []string) {
	for _, test := range []func(*testing.T){
		TestInstalledServiceCarriesFlows,
		TestServiceIsBackAfterAReboot,
		TestServiceIsBackWithABrokenProfile,
	} {
		name := runtime.FuncForPC(reflect.ValueOf(test).Pointer()).Name()
		names = append(names, name[strings.LastIndex(name, ".")+1:])
	}
	return names
}

func TestMain(m *testing.M) {
	flag.Parse()
	if err := choose(os.Getenv(bootKey)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(testutil.Main(m, map[string]testutil.Scenario{"answer": answerScenario}))
}

// choose makes this process run the test of one boot or, outside of the virtual
// machine, all tests but those of boots.
func choose(boot string) error {
	if boot == "" {
		return flag.Set("test.skip", "^("+strings.Join(boots(), "|")+")$")
	}
	n, err := strconv.Atoi(boot)
	if err != nil || n < 1 || n > len(boots()) {
		return fmt.Errorf("find the test of boot %q: there are %d", boot, len(boots()))
	}
	if n < len(boots()) {
		if err := os.WriteFile(again, nil, 0o644); err != nil {
			return err
		}
	}
	return flag.Set("test.run", "^"+boots()[n-1]+"$")
}

// check is one case. Cases of a boot run one after the other on the same
// machine, and each leaves it as it was.
type check struct {
	name string
	run  func(*testing.T)
}

// run runs the cases. When the first fails, the others have nothing to stand on.
func run(t *testing.T, checks []check) {
	for i, c := range checks {
		if !t.Run(c.name, c.run) && i == 0 {
			t.FailNow()
		}
	}
}
