package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bpfacq/bpfacq/userspace/policy"
	"github.com/bpfacq/bpfacq/userspace/profile"
)

// standardInput is how a command line names it instead of a file.
const standardInput = "-"

// readProfile reads a profile from a file or standard input. A profile that is
// not valid is an *invalidProfile.
func (e *env) readProfile(file string) (*profile.Profile, error) {
	in := e.stdin
	if file != standardInput {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("read profile: %w", err)
		}
		defer f.Close()
		in = f
	}
	p, err := profile.Parse(in)
	if invalid, ok := errors.AsType[*profile.InvalidError](err); ok {
		return nil, &invalidProfile{file, invalid}
	}
	if err != nil {
		return nil, fmt.Errorf("read profile: %w", err)
	}
	return p, nil
}

// invalidProfile is an InvalidError with all of its problems in view.
type invalidProfile struct {
	file string
	*profile.InvalidError
}

// Error returns one line for each problem.
func (e *invalidProfile) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = fmt.Sprintf("%s: %s", e.file, p)
	}
	if e.Omitted > 0 {
		lines = append(lines, fmt.Sprintf("%s: %s", e.file, plural(e.Omitted, "more problem")))
	}
	return strings.Join(lines, "\n")
}

func newProfile(e *env) *cobra.Command {
	return family(&cobra.Command{
		Use:     "profile",
		Short:   "Look at a profile file",
		Long:    `Profile looks at forwarding profiles in files. It needs no agent and no privilege.`,
		Example: `  bpfacq profile check profile.json`,
	}, newProfileCheck(e))
}

// checkAnswer is what profile check found.
type checkAnswer struct {
	Schema   int               `json:"schema"`
	File     string            `json:"file"`
	Valid    bool              `json:"valid"`
	ID       string            `json:"id"`
	Tenant   string            `json:"tenant"`
	Revision string            `json:"revision"`
	Channels int               `json:"channels"`
	Rules    int               `json:"rules"`
	Patterns int               `json:"patterns"`       // of host names, in all rules
	Pool     string            `json:"synthetic_pool"` // for names; empty if there is none
	Private  int               `json:"private_dns_rules"`
	Problems []profile.Problem `json:"problems"`
	Omitted  int               `json:"omitted"` // problems that are not listed
	Warnings []profile.Warning `json:"warnings"`
	Findings []finding         `json:"findings"`
}

// finding is a policy.Finding.
type finding struct {
	Kind  policy.FindingKind `json:"kind"`
	Rule  string             `json:"rule,omitempty"`
	Other string             `json:"other,omitempty"`
	Text  string             `json:"text"`
}

// String returns the finding on one line.
func (f finding) String() string {
	text := string(f.Kind) + ": "
	if f.Rule != "" {
		text += fmt.Sprintf("rule %q: ", f.Rule)
	}
	text += f.Text
	if f.Other != "" && !strings.Contains(f.Text, f.Other) {
		text += fmt.Sprintf(" (see rule %q)", f.Other)
	}
	return text
}

func newProfileCheck(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check FILE|-",
		Short: "Say what is wrong or odd in a profile",
		Long: `Check reads a forwarding profile as the agent would and lists

  problems  for which the agent rejects it, each with its JSON pointer, the value
            and what was expected
  warnings  about parts without effect, such as unknown fields
  findings  that the author may not have meant: rules that never decide or never
            match, places where order beats specificity, and names that no
            synthetic address can stand for

The exit status is 0 for a profile that the agent accepts and 1 for one that it
rejects. With --strict, warnings and findings make it 1 too.`,
		Example: `  bpfacq profile check /etc/bpfacq/profile.json
  bpfacq profile check --strict -o json - < profile.json`,
		Args: operands,
	}
	output := outputFlag(cmd)
	strict := cmd.Flags().Bool("strict", false, "exit with 1 also for warnings and findings")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		answer, err := e.check(args[0])
		if err != nil {
			return err
		}
		if err := e.answer(output, answer, answer.table); err != nil {
			return err
		}
		return answer.verdict(*strict)
	}
	return cmd
}

// check fails only when there is nothing to check.
func (e *env) check(file string) (*checkAnswer, error) {
	answer := &checkAnswer{
		Schema: 1, File: file,
		Problems: []profile.Problem{}, Warnings: []profile.Warning{}, Findings: []finding{},
	}
	p, err := e.readProfile(file)
	if invalid, ok := errors.AsType[*invalidProfile](err); ok {
		answer.Problems, answer.Omitted = invalid.Problems, invalid.Omitted
		return answer, nil
	}
	if err != nil {
		return nil, err
	}
	answer.Valid = true
	answer.ID, answer.Tenant, answer.Revision = p.Policy.ID, p.Policy.Tenant, p.Policy.Revision
	answer.Channels, answer.Rules = len(p.Policy.Channels), len(p.Policy.Rules)
	answer.Private = len(p.Policy.PrivateDNS)
	for _, r := range p.Policy.Rules {
		answer.Patterns += len(r.Names)
	}
	if pool := p.Policy.Settings.SyntheticPool; pool.IsValid() {
		answer.Pool = pool.String()
	}
	answer.Warnings = append(answer.Warnings, p.Warnings...)
	for _, f := range policy.Lint(p.Policy) {
		answer.Findings = append(answer.Findings, finding{f.Kind, f.Rule, f.Other, f.Text})
		switch f.Kind {
		case policy.FindingBudget:
			answer.Valid = false // the agent would not compile it
		case policy.FindingPool:
			// Without a pool, the agent leaves names alone.
			answer.Valid = answer.Valid && !p.Policy.Settings.SyntheticPool.IsValid()
		}
	}
	return answer, nil
}

func (a *checkAnswer) table(w io.Writer) {
	state := "rejected"
	if a.Valid {
		state = "valid"
		row(w, "profile", a.ID)
		row(w, "tenant", a.Tenant)
		row(w, "revision", a.Revision)
		row(w, "holds", strings.Join([]string{
			plural(a.Channels, "channel"), plural(a.Rules, "rule"), plural(a.Patterns, "name pattern"),
			plural(a.Private, "private DNS rule"),
		}, ", "))
		row(w, "pool", a.Pool)
	}
	for _, p := range a.Problems {
		row(w, "problem", p)
	}
	if a.Omitted > 0 {
		row(w, "problem", plural(a.Omitted, "more problem"))
	}
	for _, warning := range a.Warnings {
		row(w, "warning", warning)
	}
	for _, f := range a.Findings {
		row(w, "finding", f)
	}
	row(w, "result", state)
}

// verdict is the error that gives the command its exit status.
func (a *checkAnswer) verdict(strict bool) error {
	odd := len(a.Warnings) + len(a.Findings)
	switch {
	case !a.Valid:
		return fmt.Errorf("profile %q is rejected", a.File)
	case strict && odd > 0:
		return fmt.Errorf("profile %q is valid with %d warnings and findings", a.File, odd)
	}
	return nil
}
