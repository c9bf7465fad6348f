package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// explained is an explanation and who gave it.
type explained struct {
	policy.Explanation
	Source string `json:"source"`         // "agent" or "file"
	File   string `json:"file,omitempty"` // the profile that was evaluated
}

func newExplain(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain tcp|udp HOST:PORT",
		Short: "Say what happens to a flow, and why",
		Long: `Explain says whether a flow to HOST:PORT is acquired, by which rule, and which other
rules cover it but lose. HOST is an address or a name; IPv6 addresses stand in
brackets.

While the agent runs, it answers by the tables that the kernel has. Otherwise the
configured profile is evaluated. With --profile it is that file, whether the agent
runs or not: so a profile can be tried before it is applied. The answer says which
it was. A file does not tell the edges, which the agent never acquires.`,
		Example: `  bpfacq explain tcp 192.168.11.200:80
  bpfacq explain udp [2001:db8::1]:53
  bpfacq explain --profile new.json tcp intranet.example.com:443`,
		Args:      operands,
		ValidArgs: []string{"tcp", "udp"},
	}
	at, output := agentFlags(e, cmd), outputFlag(cmd)
	file := cmd.Flags().String("profile", "", "evaluate this `file` and do not ask the agent")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := control.ParseFlow(args[0], args[1]); err != nil {
			return &usageError{err.Error(), forExample(cmd)}
		}
		answer, err := e.explain(cmd.Context(), at, *file, args)
		if err != nil {
			return err
		}
		return e.answer(output, answer, answer.table)
	}
	return cmd
}

// explain asks the agent, or a file when one is named or no agent runs.
func (e *env) explain(ctx context.Context, at *place, file string, flow []string) (*explained, error) {
	if file != "" {
		return e.explainFile(file, flow)
	}
	client, err := at.client()
	if err != nil {
		return nil, err
	}
	answer, err := client.Explain(ctx, flow[0], flow[1])
	switch {
	case err == nil:
		return &explained{Explanation: answer, Source: "agent"}, nil
	case !notRunning(err):
		return nil, err
	}
	c, configErr := at.load()
	if configErr != nil {
		return nil, configErr
	}
	fromFile, fileErr := e.explainFile(c.Profile, flow)
	if fileErr != nil {
		return nil, &adviceError{fmt.Errorf("%w\n%w", err, fileErr), "name a profile: bpfacq explain --profile FILE …"}
	}
	return fromFile, nil
}

func (e *env) explainFile(file string, flow []string) (*explained, error) {
	p, err := e.readProfile(file)
	if err != nil {
		return nil, err
	}
	f, err := control.ParseFlow(flow[0], flow[1])
	if err != nil {
		return nil, err
	}
	return &explained{Explanation: policy.Explain(p.Policy, f), Source: "file", File: file}, nil
}

func (x *explained) table(w io.Writer) {
	row(w, "verdict", x.Verdict)
	reason := string(x.Reason)
	if x.Protection != "" {
		reason += ": " + x.Protection
	}
	row(w, "reason", reason)
	if r := x.Rule; r != nil {
		row(w, "rule", r.ID)
		row(w, "order", r.Order)
		row(w, "action", r.Action)
		row(w, "hardening", r.Hardening)
		row(w, "channel", r.Channel)
	}
	if x.Source == "agent" {
		row(w, "asked", fmt.Sprintf("the agent, generation %d", x.Generation))
	} else {
		row(w, "asked", "the file "+x.File)
	}
	if len(x.Beaten) == 0 {
		return
	}
	row(w)
	row(w, "BEATEN RULE", "ORDER", "ACTION", "CHANNEL", "WHY")
	for _, b := range x.Beaten {
		row(w, b.ID, b.Order, b.Action, b.Channel, b.Why)
	}
}
