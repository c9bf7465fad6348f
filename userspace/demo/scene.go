package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/bpfacq/bpfacq/loader/bpffs"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// scene is what the demo is played on.
type scene struct {
	screen *screen
	self   string // path of the bpfacq binary
	undo   undo

	network         *network
	intranet        *intranet
	public, private *resolver // the host's, and the edge's in the intranet
	cgroup          string    // of the agent and the application
	pins            *os.File  // a private BPF file system
	folder          string    // where every command is run
	host, gate      station   // gate is the edge's

	agent, edge *program
	before      netns.Snapshot // of the host
}

// build makes everything but the programs.
func (s *scene) build(ctx context.Context) (err error) {
	if s.folder, err = makeFolder(); err != nil {
		return err
	}
	s.undo.later(func() error { return os.RemoveAll(s.folder) })

	if s.pins, err = bpffs.Private(); err != nil {
		return err
	}
	s.undo.later(s.pins.Close)

	if s.cgroup, err = makeCgroup(); err != nil {
		return err
	}
	s.undo.later(func() error { return removeCgroup(s.cgroup) })

	if s.network, err = newNetwork(); err != nil {
		return err
	}
	s.undo.later(s.network.close)

	if s.intranet, err = openIntranet(ctx, s.network.intranet); err != nil {
		return err
	}
	s.undo.later(s.intranet.close)

	if err := s.openResolvers(ctx); err != nil {
		return err
	}
	s.host = station{name: "host", ns: s.network.host, cgroup: s.cgroup, resolver: s.path(hostResolver)}
	s.gate = station{name: "edge", ns: s.network.edge, resolver: s.path(edgeResolver)}
	return s.writeFiles()
}

// pinFolder is where the agent pins the datapath.
func (s *scene) pinFolder() string { return filepath.Join(s.pins.Name(), "bpfacq") }

// step is a command line with what it must show.
type step struct {
	shows   string // in one line
	at      station
	line    []string
	wide    bool     // a table to be cut where the terminal ends
	status  int      // exit status
	want    []string // in the output
	wantNot []string
}

// take shows a step and judges it.
func (s *scene) take(ctx context.Context, st step) error {
	s.screen.comment(st.shows)
	s.screen.command(st.at, shellLine(st.line))
	text, status, err := s.output(ctx, st.at, st.line)
	if st.wide {
		text = s.screen.cut(text)
	}
	s.screen.output(text)
	if err == nil {
		err = st.judge(text, status)
	}
	if err != nil {
		return fmt.Errorf("run %q: %w", shellLine(st.line), err)
	}
	return s.screen.err
}

// judge reports how an output differs from what it must be.
func (st *step) judge(text string, status int) error {
	if status != st.status {
		return fmt.Errorf("exit status is %d, want %d", status, st.status)
	}
	for _, want := range st.want {
		if !strings.Contains(text, want) {
			return fmt.Errorf("output lacks %q", want)
		}
	}
	for _, unwanted := range st.wantNot {
		if strings.Contains(text, unwanted) {
			return fmt.Errorf("output has %q", unwanted)
		}
	}
	return nil
}

// showLogs shows what the programs logged, to tell why the demo went wrong.
func (s *scene) showLogs() {
	for _, p := range []*program{s.edge, s.agent} {
		if p != nil {
			s.screen.comment("the log of the " + p.name)
			s.screen.output(p.log.String())
		}
	}
}
