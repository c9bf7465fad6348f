package doctor

import (
	"errors"
	"fmt"
	"slices"
)

// Schema is the version of a [Report] as JSON.
const Schema = 1

// State is how a check ended.
type State string

// The states, from good to bad.
const (
	StateOK      State = "ok"
	StateNote    State = "note"    // worth knowing, nothing to do
	StateUnknown State = "unknown" // the check was not possible
	StateWarning State = "warning" // bpfacq works, and not as well or as meant
	StateFailure State = "failure" // bpfacq does not work like this
)

// states lists them from good to bad.
func states() []State {
	return []State{StateOK, StateNote, StateUnknown, StateWarning, StateFailure}
}

// Finding is what a check found. A check that looks for many things has one
// finding for each.
type Finding struct {
	ID     string `json:"id"` // of the check
	State  State  `json:"state"`
	Cause  string `json:"cause"`            // what was found, and what it means for bpfacq
	Remedy string `json:"remedy,omitempty"` // what to do, if anything

	// NeedsRoot says that root would know more.
	NeedsRoot bool `json:"needs_root,omitempty"`
}

// Report is the state of a host, in the order of the checks.
type Report struct {
	Schema   int       `json:"schema"`
	Kernel   string    `json:"kernel"` // its release
	State    State     `json:"state"`  // the worst of all
	Findings []Finding `json:"checks"`
}

// Count is how many findings have a state.
func (r *Report) Count(state State) int {
	n := 0
	for _, f := range r.Findings {
		if f.State == state {
			n++
		}
	}
	return n
}

// NeedRoot lists the checks about which root would know more.
func (r *Report) NeedRoot() []string {
	var ids []string
	for _, f := range r.Findings {
		if f.NeedsRoot && !slices.Contains(ids, f.ID) {
			ids = append(ids, f.ID)
		}
	}
	return ids
}

func worst(findings []Finding) State {
	all, bad := states(), 0
	for _, f := range findings {
		bad = max(bad, slices.Index(all, f.State))
	}
	return all[bad]
}

func fine(format string, a ...any) Finding {
	return Finding{State: StateOK, Cause: fmt.Sprintf(format, a...)}
}

func noted(remedy, format string, a ...any) Finding {
	return Finding{State: StateNote, Cause: fmt.Sprintf(format, a...), Remedy: remedy}
}

func warned(remedy, format string, a ...any) Finding {
	return Finding{State: StateWarning, Cause: fmt.Sprintf(format, a...), Remedy: remedy}
}

func failed(remedy, format string, a ...any) Finding {
	return Finding{State: StateFailure, Cause: fmt.Sprintf(format, a...), Remedy: remedy}
}

func needsRoot(cause string) Finding {
	return Finding{State: StateUnknown, Cause: cause, Remedy: "sudo bpfacq doctor", NeedsRoot: true}
}

// remedyOf is what an error itself advises.
func remedyOf(err error) string {
	if e, ok := errors.AsType[interface {
		error
		Remedy() string
	}](err); ok {
		return e.Remedy()
	}
	return ""
}
