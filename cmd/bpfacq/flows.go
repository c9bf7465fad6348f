package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/bpfacq/bpfacq/userspace/control"
)

func newFlows(e *env) *cobra.Command {
	return asking(e, &cobra.Command{
		Use:   "flows",
		Short: "List acquired flows",
		Long: `Flows lists the acquired flows that are live and the last that ended, oldest first.
A destination that is a synthetic address has its name behind it. The source is shown of
flows that were acquired as packets. One that the host forwards has no process here, and
the container or network namespace that it comes from, where that can be known. Bytes
are the application's view: sent is what it wrote.`,
		Example: `  sudo bpfacq flows
  sudo bpfacq flows -o json`,
		Args: operands,
	}, (*control.Client).Flows, flowTable)
}

func flowTable(w io.Writer, answer *control.FlowList) {
	row(w, "ID", "STATE", "STARTED", "PROTOCOL", "SOURCE", "ORIGINAL DESTINATION", "PROCESS", "CONTAINER", "RULE", "EDGE", "SENT", "RECEIVED", "CAUSE")
	for _, f := range answer.Flows {
		destination := f.OrigDst.String()
		if f.Name != "" {
			destination += " (" + f.Name + ")"
		}
		source := ""
		if f.Source.IsValid() {
			source = f.Source.String()
		}
		row(w, f.ID, f.State, f.Started, f.Protocol, source, destination, processText(f.PID, f.Command), f.Container, f.Rule, f.Edge, size(f.BytesSent), size(f.BytesReceived), f.Cause)
	}
}
