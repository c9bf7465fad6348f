package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bpfacq/bpfacq/userspace/control"
)

func newReload(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the agent read its files again",
		Long: `Reload has the agent read its configuration and its profile again, as SIGHUP does, and
ends when both are in force. When one of them is rejected, nothing changes and the exit
status is 1.`,
		Example: `  sudo bpfacq reload
  sudo bpfacq reload --socket /run/other/control.sock`,
		Args: operands,
	}
	at := agentFlags(e, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := at.client()
		if err != nil {
			return err
		}
		err = client.Reload(cmd.Context())
		_, rejected := errors.AsType[*control.RejectedError](err)
		if _, refused := errors.AsType[*control.RefusedError](err); refused || rejected {
			return &adviceError{err, "what was in force before stays in force"}
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(e.stdout, "configuration and profile are in force")
		return nil
	}
	return cmd
}
