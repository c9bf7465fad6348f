package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func newCompletion(e *env) *cobra.Command {
	shells := map[string]func(*cobra.Command, io.Writer) error{
		"bash": func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) },
		"fish": func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) },
		"zsh":  (*cobra.Command).GenZshCompletion,
	}
	names := slices.Sorted(maps.Keys(shells))
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a shell's completion script",
		Long:  `Completion prints a script that teaches a shell to complete bpfacq's command lines.`,
		Example: `  bpfacq completion bash | sudo tee /etc/bash_completion.d/bpfacq
  bpfacq completion zsh > "${fpath[1]}/_bpfacq"
  bpfacq completion fish > ~/.config/fish/completions/bpfacq.fish`,
		Args:      operands,
		ValidArgs: names,
		RunE: func(cmd *cobra.Command, args []string) error {
			generate, ok := shells[args[0]]
			if !ok {
				return &usageError{fmt.Sprintf("unknown shell %q, want one of %s", args[0], strings.Join(names, ", ")), forExample(cmd)}
			}
			return generate(cmd.Root(), e.stdout)
		},
	}
}
