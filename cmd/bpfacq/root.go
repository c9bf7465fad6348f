package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// The groups of commands in the help text.
const (
	groupPrograms = "programs"
	groupPolicy   = "policy"
	groupState    = "state"
	groupOther    = "other"
)

func newRoot(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "bpfacq",
		Short: "Acquire flows by a forwarding profile",
		Long: `bpfacq acquires the flows that a forwarding profile names and carries them to an
edge, without changing a route, a rule or a file of the host.

Errors go to standard error. The exit status is 0, 1 after a failure, or 2 after
a mistake in the command line.`,
		Example: `  bpfacq profile check profile.json
  sudo bpfacq run
  sudo bpfacq status
  sudo bpfacq explain tcp 192.168.11.200:80`,
		Args:              cobra.ArbitraryArgs,
		RunE:              needCommand,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.SetUsageFunc(usage)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{err.Error(), seeHelp(cmd)}
	})
	root.AddGroup(
		&cobra.Group{ID: groupPrograms, Title: "Programs:"},
		&cobra.Group{ID: groupPolicy, Title: "Policy:"},
		&cobra.Group{ID: groupState, Title: "State:"},
		&cobra.Group{ID: groupOther, Title: "Other:"},
	)
	group := func(id string, commands ...*cobra.Command) {
		for _, cmd := range commands {
			cmd.GroupID = id
			root.AddCommand(cmd)
		}
	}
	group(groupPrograms, newRun(e), newEdge(e), newDemo(e))
	group(groupPolicy, newProfile(e), newPolicy(e), newReload(e), newExplain(e), newRules(e))
	group(groupState, newStatus(e), newFlows(e), newHostnames(e), newDNS(e), newMaps(e), newDoctor(e), newDetach(e))
	group(groupOther, newVersion(e), newCompletion(e))
	help := newHelp()
	help.GroupID = groupOther
	root.SetHelpCommand(help)
	root.SetHelpCommandGroupID(groupOther)
	return root
}

// family makes a command that only has commands below it.
func family(cmd *cobra.Command, members ...*cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = needCommand
	cmd.AddCommand(members...)
	return cmd
}

// needCommand is run when the words of a command line end before a command, or
// go on with something that is none.
func needCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), cmd.UsageString())
		return &usageError{fmt.Sprintf("%q needs a command", cmd.CommandPath()), ""}
	}
	hint := seeHelp(cmd)
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean " + strings.Join(quoted(cmd, near), " or ") + "?"
	}
	return &usageError{fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath()), hint}
}

func quoted(parent *cobra.Command, names []string) []string {
	paths := make([]string, len(names))
	for i, name := range names {
		paths[i] = fmt.Sprintf("%q", parent.CommandPath()+" "+name)
	}
	return paths
}

// operands checks the number of arguments against the words of Use: a word in
// brackets may be left out. An argument's own form is the command's business.
func operands(cmd *cobra.Command, args []string) error {
	words := strings.Fields(cmd.Use)[1:]
	needed := 0
	for _, word := range words {
		if !strings.HasPrefix(word, "[") && !strings.HasPrefix(word, "-") {
			needed++
		}
	}
	switch {
	case len(args) < needed:
		return &usageError{fmt.Sprintf("%q needs %s", cmd.CommandPath(), strings.Join(words, " ")), forExample(cmd)}
	case len(args) > len(words):
		return &usageError{fmt.Sprintf("%q does not take %q", cmd.CommandPath(), args[len(words)]), forExample(cmd)}
	}
	return nil
}

func seeHelp(cmd *cobra.Command) string { return fmt.Sprintf("see %q", cmd.CommandPath()+" -h") }

// forExample shows the first line of the command's examples.
func forExample(cmd *cobra.Command) string {
	first, _, _ := strings.Cut(strings.TrimSpace(cmd.Example), "\n")
	return "for example: " + first
}

func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]...",
		Short: "Explain a command",
		Long:  "Help explains a command, as the command's own -h does.",
		Example: `  bpfacq help status
  bpfacq help policy apply`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			subject, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return needCommand(subject, rest)
			}
			subject.InitDefaultHelpFlag()
			return subject.Help()
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			subject, _, err := cmd.Root().Find(args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, sub := range subject.Commands() {
				names = append(names, sub.Name()+"\t"+sub.Short)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}
