// Package control is how bpfacq's commands talk to the agent: HTTP and JSON
// over a unix socket. The [Server] asks an [Agent]; the [Client] asks the
// server and turns its refusals back into errors.
//
// Every JSON answer carries "schema": 1. Fields may be added to a schema, never
// renamed or removed.
package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/bpfacq/bpfacq/userspace/flow"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// Schema is the number of the form that every answer has.
const Schema = 1

// Errors of both ends of the socket.
var (
	ErrHeld      = errors.New("another agent answers there")
	ErrNotSocket = errors.New("the file there is no socket")
	ErrNoPolicy  = errors.New("no policy is loaded")
	ErrQuestion  = errors.New("the question makes no sense")
)

// Agent is what the server asks. Its methods may be called concurrently.
type Agent interface {
	// Status describes the agent as it is now. The server fills in Schema.
	Status(ctx context.Context) Status

	// Flows returns the live flows and the recently ended ones.
	Flows() []flow.Flow

	// Loaded returns the policy that the kernel has now, or ErrNoPolicy.
	Loaded() (Loaded, error)

	// Explain decides f by the tables that the kernel has now.
	Explain(ctx context.Context, f policy.Flow) (policy.Explanation, error)

	// Path says by which way a flow goes, about which Explain was asked
	// before.
	Path(ctx context.Context, q PathQuestion) (Path, error)

	// Hostnames returns the names that were asked for, and those that hold
	// synthetic addresses, by name.
	Hostnames() []Hostname

	// DNS describes how queries are taken and answered now. The server
	// fills in Schema.
	DNS() DNS

	// DNSQuery asks q as an application's query would be asked, and tells
	// each step. It does not wait longer than an application's resolver
	// would. An answer that is an error is no error here. A type that is not
	// known is one that matches ErrQuestion.
	DNSQuery(ctx context.Context, q Question) (Trace, error)

	// Apply loads a profile: the one that it reads, or the configured file
	// again when profile is nil. Source says for people where the profile
	// came from. A profile that is rejected is a *RejectedError, and the
	// policy stays.
	Apply(ctx context.Context, profile io.Reader, source string) (Applied, error)

	// Reload reads the configuration and the profile again, as SIGHUP does.
	Reload(ctx context.Context) error

	// Metrics serves Prometheus metrics.
	Metrics() http.Handler
}

// Loaded is a policy in force.
type Loaded struct {
	Policy     *policy.Policy
	Generation uint32
	Source     string // a path, or what Apply was told
	Applied    time.Time
}

// Applied is what applying a profile changed.
type Applied struct {
	Schema     int       `json:"schema"`
	Generation uint32    `json:"generation"`
	Profile    Profile   `json:"profile"`
	Warnings   []Warning `json:"warnings"`
}

// Problem is one reason why a profile was rejected. It has the fields of
// profile.Problem, which converts to it.
type Problem struct {
	Pointer string `json:"pointer"` // RFC 6901; empty for the whole document
	Value   string `json:"value"`   // what stands there
	Want    string `json:"want"`    // what was expected
	Line    int    `json:"line"`    // from 1; 0 when unknown
	Column  int    `json:"column"`  // in characters, from 1
	Offset  int    `json:"offset"`  // in bytes, from 0
}

// String returns the problem on one line.
func (p Problem) String() string {
	text := fmt.Sprintf("%s: got %s, want %s", cmp.Or(p.Pointer, "document"), p.Value, p.Want)
	if p.Line > 0 {
		text += fmt.Sprintf(" (line %d, column %d)", p.Line, p.Column)
	}
	return text
}

// Warning is a remark on an accepted profile. It has the fields of
// profile.Warning, which converts to it.
type Warning struct {
	Pointer string `json:"pointer"` // RFC 6901; empty for the whole document
	Text    string `json:"text"`
	Line    int    `json:"line"` // from 1; 0 for the whole document
}

// String returns the warning on one line.
func (w Warning) String() string { return cmp.Or(w.Pointer, "document") + ": " + w.Text }

// RejectedError says why a profile was not applied. Problems is never empty.
type RejectedError struct {
	Problems []Problem
	Omitted  int // how many more were found
}

// Error returns one line for each problem.
func (e *RejectedError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	if e.Omitted > 0 {
		lines = append(lines, fmt.Sprintf("%d more problems", e.Omitted))
	}
	return strings.Join(lines, "\n")
}
