package main

import (
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/userspace/demo"
)

func newDemo(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show acquisition in namespaces of its own",
		Long: `Demo builds a small network in namespaces of its own: a host without a route to a
private network, an edge, and a web server behind it. It loads the sample profile
there and shows what is acquired, what is not, and that nothing of the host has
changed. It needs root, touches nothing else and removes what it made.`,
		Example: `  sudo bpfacq demo`,
		Args:    operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find the own program: %w", err)
			}
			// When the terminal is closed or the reader of a pipe leaves, what
			// the demo made has to go, too.
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGHUP, unix.SIGPIPE)
			defer stop()
			return e.demo(ctx, demo.Options{Out: e.stdout, Self: self})
		},
	}
}
