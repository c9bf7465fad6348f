package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/bpfacq/bpfacq/userspace/channel"
	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/profile"
)

// maxListed bounds the findings of one check.
const maxListed = 20

// agentLimit is how long an agent that is well never takes to answer.
const agentLimit = 10 * time.Second

// readConfig reads the configuration, and returns the defaults with what is wrong
// with it.
func readConfig(h Host) (config.Config, error) {
	content, err := text(h.Root, rooted(h.Config))
	if err != nil {
		return config.Default(), err
	}
	c, err := config.Parse([]byte(content), h.Config)
	if err != nil {
		return config.Default(), err
	}
	return *c, nil
}

func checkConfiguration(x *examination) []Finding {
	switch problems, wrong := errors.AsType[config.Problems](x.problem); {
	case x.problem == nil:
		return []Finding{fine("%s is valid", x.Config)}
	case wrong:
		var all []Finding
		for _, p := range problems[:min(len(problems), maxListed)] {
			all = append(all, failed("correct it; until then the defaults are looked at here", "%s", p))
		}
		return all
	case errors.Is(x.problem, fs.ErrNotExist) && !x.ConfigNamed:
		return []Finding{noted("", "there is no %s: the defaults hold", x.Config)}
	case errors.Is(x.problem, fs.ErrNotExist):
		return []Finding{failed("name the configuration with --config", "%v", x.problem)}
	}
	return []Finding{x.unknown("", x.problem)}
}

// checkProfile says whether the agent would take the configured profile.
func checkProfile(x *examination) []Finding {
	name := x.config.Profile
	p, err := readProfile(x.Root, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		kept := path.Join(x.config.StateDir, "profile.json")
		if _, err := fs.Stat(x.Root, rooted(kept)); err == nil {
			return []Finding{warned("put a profile there", "there is no %s: the last good one is used, %s", name, kept)}
		}
		return []Finding{warned("put a profile there", "there is no %s: without one the agent does not start", name)}
	case err != nil:
		if _, wrong := errors.AsType[*profile.InvalidError](err); wrong {
			return []Finding{failed("bpfacq profile check "+name, "%s: %v", name, err)}
		}
		return []Finding{x.unknown("", err)}
	}
	x.policy = p.Policy
	all := x.checkEdges(p.Policy)
	if len(p.Warnings) > 0 {
		all = append(all, noted("bpfacq profile check "+name, "%s: %d warnings", name, len(p.Warnings)))
	}
	if len(all) == 0 {
		all = append(all, fine("%s is valid: %d rules, %d channels", name, len(p.Policy.Rules), len(p.Policy.Channels)))
	}
	return all
}

func readProfile(root fs.FS, name string) (*profile.Profile, error) {
	f, err := root.Open(rooted(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return profile.Parse(f)
}

// checkEdges finds the edges for which the agent would reject a profile.
func (x *examination) checkEdges(p *policy.Policy) []Finding {
	if x.config.Relay.ExternalListener != "" {
		return nil // another relay knows where flows go
	}
	allowed, err := channel.ParseAllowList(x.config.Edges.Allow)
	if err != nil {
		return nil // the configuration's problem
	}
	var all []Finding
	seen := make(map[string]bool)
	for _, ch := range p.Channels {
		for _, edges := range [][]policy.Edge{ch.Primary, ch.Secondary} {
			for _, edge := range edges {
				if seen[edge.Host] || len(all) == maxListed {
					continue
				}
				seen[edge.Host] = true
				if !allowed.Allows(edge.Host) {
					all = append(all, failed("name it in edges.allow, if it is to be trusted",
						"the configuration does not allow the edge %q, so the agent rejects the profile", edge.Host))
				} else if !edge.Secure && !x.config.Edges.Cleartext {
					all = append(all, failed("correct the profile, or set edges.cleartext",
						"the profile has the edge %q in cleartext, so the agent rejects it", edge.Host))
				}
			}
		}
	}
	return all
}

// checkPins says what an agent has left in the kernel.
func checkPins(x *examination) Finding {
	pins := x.config.Kernel.Pins
	var err error
	if x.hooks, err = x.Kernel.Hooks(pins); err != nil {
		return x.unknown("if somebody has changed the pins: bpfacq detach --all", fmt.Errorf("read %s: %w", pins, err))
	}
	if len(x.hooks) == 0 {
		return fine("nothing is loaded at %s", pins)
	}
	return fine("%d programs are attached by %s: %s", len(x.hooks), pins, strings.Join(x.hooks, ", "))
}

// checkAgent asks the agent, if one runs.
func checkAgent(ctx context.Context, x *examination) []Finding {
	ctx, cancel := context.WithTimeout(ctx, agentLimit)
	defer cancel()
	status, err := x.Agent(ctx, x.config.Control.Socket)
	if err == nil {
		x.agent = &status
		return agentState(&status)
	}
	_, unreachable := errors.AsType[*control.UnreachableError](err)
	absent := unreachable && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED))
	switch {
	case absent && len(x.hooks) > 0:
		return []Finding{warned("systemctl start bpfacq, or bpfacq detach --all",
			"no agent runs, and its programs are attached: each rule's hardening decides")}
	case absent:
		return []Finding{noted("systemctl start bpfacq", "no agent runs: nothing is acquired")}
	case errors.Is(err, fs.ErrPermission):
		return []Finding{x.unknown("sudo bpfacq doctor", err)}
	}
	return []Finding{failed("see its log, journalctl -u bpfacq, and restart it", "%v", err)}
}

func agentState(s *control.Status) []Finding {
	var all []Finding
	if !s.Lease.Fresh {
		all = append(all, failed("see its log, journalctl -u bpfacq, and restart it",
			"the agent answers and its lease has lapsed: each rule's hardening decides"))
	}
	if s.Profile == nil {
		all = append(all, warned("bpfacq policy apply FILE", "the agent has no policy: nothing is acquired"))
	}
	for _, ch := range s.Channels {
		if ch.State != "up" {
			all = append(all, warned("see bpfacq status, and whether its edge can be reached",
				"channel %q is %s: %s", ch.Name, ch.State, cmp.Or(ch.Cause, "no cause is known")))
		}
	}
	for _, warning := range s.Warnings {
		all = append(all, warned("see bpfacq status", "the agent says: %s", warning))
	}
	if len(all) == 0 {
		all = append(all, fine("bpfacq %s runs as process %d, generation %d", s.Version, s.PID, s.Generation))
	}
	return all
}
