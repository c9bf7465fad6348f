package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bpfacq/bpfacq/userspace/control"
)

func newPolicy(e *env) *cobra.Command {
	return family(&cobra.Command{
		Use:   "policy",
		Short: "Show or replace the loaded policy",
		Long:  `Policy shows or replaces the policy that the agent has loaded into the kernel.`,
		Example: `  sudo bpfacq policy show
  sudo bpfacq policy apply profile.json`,
	}, newPolicyApply(e), newPolicyShow(e))
}

func newPolicyApply(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apply [FILE|-]",
		Short: "Load a profile",
		Long: `Apply has the agent load a forwarding profile: FILE, standard input, or without an
argument the configured file again. The change is atomic: a connection sees the old
policy or the new one. A profile that is rejected changes nothing.

A FILE stays in force until the agent reads its configured profile again, on SIGHUP
or at its start.`,
		Example: `  sudo bpfacq policy apply profile.json
  sudo bpfacq policy apply
  generate-profile | sudo bpfacq policy apply -`,
		Args: operands,
	}
	at := agentFlags(e, cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := at.client()
		if err != nil {
			return err
		}
		in, source, err := e.source(args)
		if err != nil {
			return err
		}
		if f, ok := in.(*os.File); ok {
			defer f.Close()
		}
		applied, err := client.Apply(cmd.Context(), in, source)
		if _, ok := errors.AsType[*control.RejectedError](err); ok {
			return &adviceError{err, "the policy that was loaded before stays in force"}
		}
		if err != nil {
			return err
		}
		for _, w := range applied.Warnings {
			e.warn(w.String())
		}
		fmt.Fprintf(e.stdout, "generation %d: %s of profile %s from %s\n", applied.Generation,
			plural(applied.Profile.Rules, "rule"), cell(applied.Profile.ID), cell(applied.Profile.Source))
		return nil
	}
	return cmd
}

// source opens what policy apply was told to load; nil is the configured file.
func (e *env) source(args []string) (in io.Reader, name string, err error) {
	if len(args) == 0 {
		return nil, "", nil
	}
	if args[0] == standardInput {
		return e.stdin, "standard input", nil
	}
	// The agent shows the name to people who are elsewhere.
	if name, err = filepath.Abs(args[0]); err != nil {
		return nil, "", fmt.Errorf("read profile: %w", err)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, "", fmt.Errorf("read profile: %w", err)
	}
	return f, name, nil
}

func newPolicyShow(e *env) *cobra.Command {
	return asking(e, &cobra.Command{
		Use:   "show",
		Short: "Show the loaded policy",
		Long: `Show prints what the loaded policy says beside its rules: where it came from, its
channels and their edges, its settings, the servers of private names, and the
destinations that are never acquired.
"bpfacq rules" lists the rules.`,
		Example: `  sudo bpfacq policy show
  sudo bpfacq policy show -o json`,
		Args: operands,
	}, (*control.Client).Policy, policyTable)
}

func policyTable(w io.Writer, a *control.PolicyAnswer) {
	profileRows(w, &a.Profile, a.Generation)
	row(w, "grace time", seconds(a.Settings.GraceTime))
	row(w, "probe interval", seconds(a.Settings.ProbeInterval))
	row(w, "poll interval", seconds(a.Settings.PollInterval))
	row(w, "synthetic pool", a.Settings.SyntheticPool)
	row(w, "flush caches", yesNo(a.Settings.FlushCache))

	row(w)
	row(w, "CHANNEL", "ID", "PRIMARY EDGES", "SECONDARY EDGES", "DIAGNOSTIC URI")
	for _, ch := range a.Channels {
		row(w, ch.Name, ch.ID, edgeList(ch.Primary), edgeList(ch.Secondary), ch.DiagnosticURI)
	}
	if len(a.PrivateDNS) > 0 {
		row(w)
		row(w, "PRIVATE SUFFIX", "SERVER", "SINGLE LABELS")
		for _, rule := range a.PrivateDNS {
			row(w, rule.Suffix, rule.Server, yesNo(rule.SingleLabel))
		}
	}
	row(w)
	row(w, "NEVER ACQUIRED", "PORTS", "REASON")
	for _, p := range a.Protected {
		row(w, p.Prefix, p.Ports, p.Reason)
	}
}

// profileRows shows where a policy came from.
func profileRows(w io.Writer, p *control.Profile, generation uint32) {
	row(w, "profile", p.ID)
	row(w, "tenant", p.Tenant)
	row(w, "revision", p.Revision)
	row(w, "generation", generation)
	row(w, "rules", p.Rules)
	row(w, "source", p.Source)
	row(w, "applied", p.Applied)
}

func edgeList(edges []control.Edge) string {
	texts := make([]string, len(edges))
	for i, e := range edges {
		texts[i] = e.Address
		if !e.Secure {
			texts[i] += " (cleartext)"
		}
	}
	return strings.Join(texts, ", ")
}

// seconds shows a duration, and nothing for one that is not set.
func seconds(s float64) string {
	if s == 0 {
		return ""
	}
	return time.Duration(s * float64(time.Second)).String()
}
