// Package demo shows bpfacq at work on a network of its own: a host without a
// route to a private network, an edge, and the private network behind it.
//
// It makes network namespaces, a cgroup, a BPF file system and a temporary
// folder, and removes them however it ends. Only after kill -9 do the cgroup and
// the folder stay, empty of processes, until the next demo removes them.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Time limits. The whole demo takes about two seconds.
const (
	wholeLimit   = time.Minute
	readyLimit   = 15 * time.Second // of a program that starts
	commandLimit = 10 * time.Second // of a command that is shown
	stopLimit    = 10 * time.Second // of a program that was told to stop
)

// Errors of the demo.
var (
	errTooLong = errors.New("demo takes too long")
	errEnded   = errors.New("program has ended")
	errChanged = errors.New("host is not as it was")
	errLeft    = errors.New("still there")
	errAbsent  = errors.New("not there")
)

// Options say what is shown, and where.
type Options struct {
	// Out is what the demo is written to, in colours if it is a terminal.
	Out io.Writer

	// Self is the path of the bpfacq binary, which runs as the agent, as the
	// edge and as the commands that are shown.
	Self string
}

// Run shows the demo, until its end or until ctx is done. The error says which
// part did not go as it should, and has a Remedy method where the machine lacks
// something.
func Run(ctx context.Context, o Options) (err error) {
	if err := checkMachine(os.Geteuid(), resolverFile, exec.LookPath); err != nil {
		return err
	}
	limited, cancel := context.WithTimeoutCause(ctx, wholeLimit, errTooLong)
	defer cancel()

	begun := time.Now()
	s := &scene{screen: newScreen(o.Out), self: o.Self}
	defer func() { err = errors.Join(err, s.undo.all()) }()
	err = s.play(limited)
	if limited.Err() != nil {
		// Whatever else went wrong is only a consequence.
		return context.Cause(limited)
	}
	if err != nil {
		s.showLogs()
		return err
	}
	s.screen.text(fmt.Sprintf("\nAll of this took %.1f seconds.", time.Since(begun).Seconds()))
	return s.screen.err
}

// play shows the whole demo, and takes down what it is played on.
func (s *scene) play(ctx context.Context) error {
	for _, part := range []func(context.Context) error{
		s.build,
		s.showHost,
		s.startEdge,
		s.startAgent,
		s.showFlows,
		s.showNames,
		s.showDecisions,
		s.showUnchanged,
		s.showNothingLeft,
	} {
		if err := part(ctx); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// undo is what has been made and is to be removed.
type undo []func() error

// later remembers how to remove something.
func (u *undo) later(remove func() error) { *u = append(*u, remove) }

// all removes everything, the last thing first. What does not go does not keep
// the rest.
func (u *undo) all() error {
	var errs []error
	for _, remove := range slices.Backward(*u) {
		errs = append(errs, remove())
	}
	*u = nil
	return errors.Join(errs...)
}

// lackError is something that the demo needs and the machine does not give.
type lackError struct {
	text, remedy string
}

func (e *lackError) Error() string { return e.text }

// Remedy says what to do.
func (e *lackError) Remedy() string { return e.remedy }

// checkMachine finds out beforehand what would fail half-way.
func checkMachine(uid int, resolver string, find func(command string) (string, error)) error {
	if uid != 0 {
		return &lackError{
			"make namespaces and load bpf programs: needs root",
			"sudo bpfacq demo",
		}
	}
	var missing, packages []string
	for _, need := range []struct{ command, packet string }{
		{"bash", "bash"}, {"curl", "curl"}, {"getent", "libc-bin"}, {"ip", "iproute2"}, {"mount", "mount"}, {"nft", "nftables"},
	} {
		if _, err := find(need.command); err != nil {
			missing, packages = append(missing, need.command), append(packages, need.packet)
		}
	}
	if missing != nil {
		return &lackError{
			fmt.Sprintf("find %s: not in PATH", strings.Join(missing, ", ")),
			"install these, by these or similar names: " + strings.Join(packages, " "),
		}
	}
	if _, err := os.Stat(resolver); err != nil {
		return &lackError{
			fmt.Sprintf("find %s, in whose place programs see the demo's: not there", resolver),
			"make an empty one",
		}
	}
	return nil
}
