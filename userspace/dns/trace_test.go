package dns

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTraceTellsEachStep(t *testing.T) {
	upstream := newResolver(t, zone("build.corp.example. 5 IN A 192.0.2.7", "plain.example. 5 IN A 192.0.2.8"))
	r := newRig(t, upstream.at, nil)
	r.names.acquire(acquiredName, acquired())
	trace, err := r.Ask(t.Context(), "Build.Corp.example", "a", upstream.at)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []StepKind
	for _, step := range trace.Steps {
		kinds = append(kinds, step.Kind)
	}
	if want := []StepKind{StepJudge, StepAsk, StepAssign, StepRewrite}; !slices.Equal(kinds, want) {
		t.Errorf("steps are %+v", trace.Steps)
	}
	if trace.Name != acquiredName || trace.Type != "A" || trace.Code != "NOERROR" || trace.Outcome != OutcomeSynthetic || trace.Cause != "" ||
		!slices.Equal(trace.Records, []string{"Build.Corp.example. 30 IN A 6.6.0.1"}) {
		t.Errorf("trace is %+v", trace)
	}
	if step := trace.Steps[1]; step.Server != upstream.at || step.Network != "udp" || step.Code != "NOERROR" ||
		!slices.Equal(step.Records, []string{"build.corp.example. 5 IN A 192.0.2.7"}) {
		t.Errorf("asked %+v", step)
	}
	if step := trace.Steps[0]; step.Rule != "r1" || step.Channel != "private" {
		t.Errorf("judged %+v", step)
	}

	trace, err = r.Ask(t.Context(), "plain.example.", "A", netip.AddrPort{}) // of who was asked before
	if err != nil || trace.Server != upstream.at || len(trace.Steps) != 3 || trace.Steps[2].Kind != StepPass ||
		!slices.Equal(trace.Records, []string{"plain.example. 5 IN A 192.0.2.8"}) {
		t.Errorf("trace is %+v, %v", trace, err)
	}
	for _, kind := range []string{"", "NONSENSE", "TYPE70000"} {
		if _, err := r.Ask(t.Context(), "a.example", kind, upstream.at); err == nil {
			t.Errorf("type %q is taken", kind)
		}
	}
	if _, err := r.Ask(t.Context(), strings.Repeat("x", 64)+".example", "A", upstream.at); err == nil {
		t.Error("a long label is taken")
	}
	if trace, err := r.Ask(t.Context(), "a.example", "type65280", upstream.at); err != nil || trace.Type != "TYPE65280" {
		t.Errorf("trace is %+v, %v", trace, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if trace, err := r.Ask(ctx, "a.example", "A", upstream.at); err == nil && trace.Records != nil {
		t.Errorf("trace is %+v", trace)
	}
}

func TestTraceTellsWhyThereIsNoAnswer(t *testing.T) {
	server, _ := rawServer(t, func([]byte) [][]byte { return nil })
	r := newRig(t, server, func(_ *rig, o *Options) { o.Limits.Timeout = 20 * time.Millisecond })
	trace, err := r.Ask(t.Context(), "a.example", "A", server)
	if err != nil || trace.Code != "" || trace.Cause != "no answer: timeout" || trace.Outcome != OutcomeTimeout {
		t.Errorf("trace is %+v, %v", trace, err)
	}
}
