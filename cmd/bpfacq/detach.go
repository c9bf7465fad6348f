package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bpfacq/bpfacq/loader"
	"github.com/bpfacq/bpfacq/userspace/enclave"
)

func newDetach(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "detach --all",
		Short: "Remove every trace from the kernel",
		Long: `Detach removes the datapath from the kernel: programs, links, filters, maps and their
pins, and the pairs of devices that an agent may have left that was killed. It works
without the agent, and refuses while one runs. Flows that were acquired end with the
agent that carries them; new ones go directly.`,
		Example: `  sudo bpfacq detach --all
  sudo bpfacq detach --all --pins /sys/fs/bpf/other`,
		Args: cobra.ArbitraryArgs,
	}
	all := cmd.Flags().Bool("all", false, "confirm that everything is to be removed")
	at, pins := configFlag(e, cmd), pinsFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) > 0:
			return &usageError{fmt.Sprintf("%q does not take %q", cmd.CommandPath(), args[0]), forExample(cmd)}
		case !*all:
			return &usageError{fmt.Sprintf("%q needs --all", cmd.CommandPath()), forExample(cmd)}
		}
		folder, err := at.pins(*pins)
		if err != nil {
			return err
		}
		found, err := e.detach(folder)
		if err != nil {
			return err
		}
		if !found {
			fmt.Fprintf(e.stdout, "nothing to detach: no datapath is pinned at %s\n", folder)
			return nil
		}
		fmt.Fprintf(e.stdout, "detached the datapath that was pinned at %s\n", folder)
		return nil
	}
	return cmd
}

// detach removes what is pinned in a folder, and the devices of who is gone. It
// reports whether there was something to remove.
func detach(folder string) (bool, error) {
	found, err := loader.Detach(folder)
	if err != nil {
		return found, err // an agent is running, and the devices are its own
	}
	pairs, err := enclave.Sweep()
	return found || pairs > 0, err
}
