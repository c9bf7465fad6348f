package agent

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/bpfacq/bpfacq/userspace/supervisor"
)

// notices tells the agent's supervisor what the agent is at: one notice at a
// time, and none that a later stage has overtaken.
type notices struct {
	notify func(supervisor.Notice) // nil: nobody wants to know

	mu        sync.Mutex
	stage     supervisor.Stage
	status    string
	complaint string // about what was asked for and is not in force
}

// starting says what the agent does before it is ready.
func (n *notices) starting(status string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tell(supervisor.Notice{Stage: supervisor.StageStarting, Status: status})
}

// ready says that flows are being acquired.
func (n *notices) ready(status string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tell(supervisor.Notice{Stage: supervisor.StageReady, Status: status})
}

// acquiring says what is in force, if the agent is ready and at nothing else.
func (n *notices) acquiring(status string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stage == supervisor.StageReady {
		n.tell(supervisor.Notice{Stage: supervisor.StageReady, Status: status})
	}
}

// reloading says that a reload has begun. The agent may be asked for one before
// it is ready; its supervisor is not told of that.
func (n *notices) reloading() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stage == supervisor.StageReady {
		n.tell(supervisor.Notice{Stage: supervisor.StageReloading, Status: "reloading"})
	}
}

// reloaded says that a reload has ended, and what is in force then.
func (n *notices) reloaded(status string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.complaint = ""
	if err != nil {
		n.complaint = "reload rejected: " + firstLine(err)
	}
	if n.stage == supervisor.StageReloading {
		n.tell(supervisor.Notice{Stage: supervisor.StageReady, Status: status})
	}
}

// complain adds to what is said from here on, until a reload succeeds.
func (n *notices) complain(complaint string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.complaint = complaint + ": " + firstLine(err)
}

// complied says that what was asked for last is in force.
func (n *notices) complied() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.complaint = ""
}

// outstanding is what was asked for and is not in force, or empty.
func (n *notices) outstanding() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.complaint
}

// firstLine keeps a long list of problems from hiding the rest of a status.
func firstLine(err error) string {
	first, _, _ := strings.Cut(err.Error(), "\n")
	return first
}

// stopping says that the agent takes itself down. Nothing else is said after it.
func (n *notices) stopping(status string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.complaint = ""
	n.tell(supervisor.Notice{Stage: supervisor.StageStopping, Status: status})
}

// draining says how many flows a stop still waits for, and that it goes on for
// some time.
func (n *notices) draining(flows uint64, extend time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	status := "draining " + count(flows, "flow")
	n.tell(supervisor.Notice{Stage: supervisor.StageStopping, Status: status, Alive: true, Extend: extend})
}

// alive says that the agent has found itself well.
func (n *notices) alive() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tell(supervisor.Notice{Alive: true})
}

// tell passes on what is new in a notice. The caller holds n.mu, so that the next
// one comes after it.
func (n *notices) tell(next supervisor.Notice) {
	if next.Stage == supervisor.StageReady && n.complaint != "" {
		next.Status += "; " + n.complaint
	}
	if next.Stage == n.stage {
		next.Stage = 0
	} else if next.Stage != 0 {
		n.stage = next.Stage
	}
	if next.Status == n.status {
		next.Status = ""
	} else if next.Status != "" {
		n.status = next.Status
	}
	if n.notify != nil && next != (supervisor.Notice{}) {
		n.notify(next)
	}
}

// summary is what is in force, on one line.
func (a *Agent) summary() string {
	l := a.loaded.Load()
	text := fmt.Sprintf("acquiring: generation %d, %s", l.Generation, count(uint64(len(l.Policy.Rules)), "rule"))
	for i, c := range l.epoch.carriers {
		text += fmt.Sprintf(", %s %s", l.Policy.Channels[i].Name, c.Status().State)
	}
	return text
}

func count(n uint64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
