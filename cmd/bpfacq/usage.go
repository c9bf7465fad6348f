package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// usage writes what follows a command's description in its help: how to call
// it, examples, the commands below it and its flags.
func usage(cmd *cobra.Command) error {
	var b strings.Builder
	line := cmd.UseLine()
	if cmd.HasSubCommands() {
		line = cmd.CommandPath() + " COMMAND"
	}
	fmt.Fprintf(&b, "Usage:\n  %s\n", line)
	if cmd.HasExample() {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", cmd.Example)
	}
	for _, group := range cmd.Groups() {
		commandList(&b, group.Title, cmd, group.ID)
	}
	if len(cmd.Groups()) == 0 && cmd.HasSubCommands() {
		commandList(&b, "Commands:", cmd, "")
	}
	fmt.Fprintf(&b, "\nFlags:\n%s", cmd.LocalFlags().FlagUsages())
	if cmd.HasSubCommands() {
		fmt.Fprintf(&b, "\nMore of a command: %s COMMAND -h\n", cmd.CommandPath())
	}
	_, err := fmt.Fprint(cmd.OutOrStderr(), b.String())
	return err
}

func commandList(b *strings.Builder, title string, parent *cobra.Command, group string) {
	fmt.Fprintf(b, "\n%s\n", title)
	for _, cmd := range parent.Commands() {
		if cmd.GroupID == group && !cmd.Hidden {
			fmt.Fprintf(b, "  %-*s  %s\n", parent.Commands()[0].NamePadding(), cmd.Name(), cmd.Short)
		}
	}
}
