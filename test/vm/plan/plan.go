// Package plan is what a virtual machine for tests is told to do: its process 1
// finds it in the initramfs.
package plan

import (
	"encoding/json"
	"fmt"
	"os"
)

// File is the plan's path in the initramfs.
const File = "/plan.json"

// Plan is for one boot. Paths are those of the initramfs, unless said otherwise.
type Plan struct {
	// Modules are loaded in this order.
	Modules []string
	// Root is the drive, by its serial number, whose file system is switched to.
	Root string
	// Source is the folder of the repository's files. It is seen at the same
	// path after the switch.
	Source string
	// Environment is that of the tests, each KEY=value.
	Environment []string
	// Tests run one after the other, also when one of them fails.
	Tests []Test
	// Returns is the drive, by its serial number, that takes a tar archive of
	// the files below Source that the tests changed or made, or empty.
	Returns string
}

// Test is the test binary of a package.
type Test struct {
	// Package is the folder of the package, relative to the top: below Source
	// the tests run there.
	Package string
	// Command is the binary and its arguments. What it prints goes to the
	// machine's output.
	Command []string
}

// What begins a line on the console.
const (
	BootLine      = "VMBOOT " // process 1 runs
	ComplaintLine = "guest: " // something is wrong, and it is not a test that says so
)

// Marshal returns the plan as it is written to File.
func (p Plan) Marshal() ([]byte, error) { return json.Marshal(p) }

// Read reads a plan from a file.
func Read(path string) (Plan, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Plan{}, err
	}
	var p Plan
	if err := json.Unmarshal(text, &p); err != nil {
		return Plan{}, fmt.Errorf("parse %s: %w", path, err)
	}
	return p, nil
}
