package control

import (
	"fmt"
	"strconv"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// The ways of a [Path].
const (
	WaySocket = "socket" // the socket path
	WayPacket = "packet" // the packet path
	WayDirect = "direct" // as if there was no bpfacq
	WayNone   = "none"   // the flow is refused
)

// PathQuestion asks by which way a flow goes.
type PathQuestion struct {
	Flow    policy.Flow
	Verdict string // of the flow, as an explanation has it

	// Namespace is the inode of the network namespace that the flow comes from,
	// or 0 for the host's own.
	Namespace uint64
}

// Path says by which way a flow goes, and why.
type Path struct {
	Way string `json:"way"` // one of the Way constants
	Why string `json:"why"` // for people

	// Namespace is the network namespace that was asked about, or empty for
	// the host's: the name of its container if that is known, else its number.
	Namespace string `json:"namespace,omitempty"`

	// Device is where the host's routes send the flow. It is empty where there
	// is no route, and where that does not matter.
	Device string `json:"device,omitempty"`
}

// Explained is the answer to a question for a flow.
type Explained struct {
	policy.Explanation

	// Path is nil if nobody can tell, as without an agent.
	Path *Path `json:"path,omitempty"`
}

// parseNamespace reads the inode of a network namespace, or nothing for the
// host's own.
func parseNamespace(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	inode, err := strconv.ParseUint(text, 10, 64)
	if err != nil || inode == 0 {
		return 0, fmt.Errorf("parse network namespace %q, want the number of its inode", text)
	}
	return inode, nil
}
