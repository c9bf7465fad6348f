// Guest is process 1 of a virtual machine for tests: it makes a root file system
// usable, runs test binaries there, and ends the machine with their verdict.
// Where something else is process 1, "guest end CODE" does the last of that.
package main

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/vm/plan"
)

func main() {
	switch word, argument := words(os.Args); word {
	case testsWord:
		os.Exit(tests())
	case endWord:
		if code, err := strconv.Atoi(argument); err == nil {
			end(code)
		}
	default:
		if err := boot(); err != nil {
			complain(err)
			break
		}
		end(family())
	}
	// A machine that goes off without a verdict counts as broken.
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// words are the first two arguments, as far as they are there.
func words(args []string) (first, second string) {
	args = append(args, "", "", "")
	return args[1], args[2]
}

// complain tells the console, which is shown from here on.
func complain(err error) { fmt.Printf("\n%s%v\n", plan.ComplaintLine, err) }
