package dns

import (
	"net/netip"
	"slices"
	"sync"

	wire "github.com/miekg/dns"
)

// tracer notes the steps of a query. A nil one, as queries of applications have,
// notes nothing. A look-up may go on when the query is answered.
type tracer struct {
	mu    sync.Mutex
	steps []Step
}

func (t *tracer) note(step Step) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps = append(t.steps, step)
}

func (t *tracer) all() []Step {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.steps)
}

func (t *tracer) judged(name string, j Judgement) {
	if t == nil {
		return
	}
	step := Step{Kind: StepJudge, Rule: j.Rule, Channel: j.Channel}
	switch {
	case j.Acquired:
		step.Text = name + " is acquired"
	case j.Bypassed:
		step.Text = name + " would be acquired, but the channel is down and the rule bypasses"
	case j.Undecided:
		step.Text = name + " is judged by its original address"
	default:
		step.Text = name + " is not acquired"
	}
	if j.Rule != "" {
		step.Text += ": rule " + j.Rule
	}
	t.note(step)
}

func (t *tracer) asked(step Step, answer []byte, err error) {
	if t == nil {
		return
	}
	step.Kind, step.Text = StepAsk, "asked "+step.Server.String()
	if err != nil {
		step.Cause = err.Error()
	} else {
		step.Code, step.Records = contents(answer)
	}
	t.note(step)
}

func (t *tracer) assigned(name string, original Original, address Address, err error) {
	if t == nil {
		return
	}
	step := Step{Kind: StepAssign, Text: name + " has no original address"}
	switch {
	case !original.Known:
		step.Text = name + " has an original address that is not known now"
	case original.Addr.IsValid():
		step.Text = name + " has the original address " + original.Addr.String()
	}
	for _, addr := range []netip.Addr{address.IPv4, address.IPv6} {
		if addr.IsValid() {
			step.Records = append(step.Records, addr.String())
		}
	}
	if err != nil {
		step.Cause = err.Error()
	}
	t.note(step)
}

func (t *tracer) rewrote(m *wire.Msg, why string) {
	if t == nil {
		return
	}
	step := Step{Kind: StepRewrite, Text: "answered here: " + why}
	step.Code, step.Records = shown(m)
	t.note(step)
}

func (t *tracer) passed(answer []byte) {
	if t == nil {
		return
	}
	step := Step{Kind: StepPass, Text: "the answer is passed on"}
	step.Code, step.Records = contents(answer)
	t.note(step)
}
