package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is what the Go tool stamped into the binary.
func version() string {
	build, ok := debug.ReadBuildInfo()
	if !ok || build.Main.Version == "" {
		return "(devel)"
	}
	return build.Main.Version
}

func newVersion(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long:  `Version prints the version of this command, which an agent's may differ from.`,
		Example: `  bpfacq version
  bpfacq version -o json`,
		Args: operands,
	}
	output := outputFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		answer := struct {
			Schema   int    `json:"schema"`
			Version  string `json:"version"`
			Go       string `json:"go"`
			Platform string `json:"platform"`
		}{1, version(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
		return e.answer(output, answer, func(w io.Writer) {
			fmt.Fprintf(w, "bpfacq %s (%s, %s)\n", answer.Version, answer.Go, answer.Platform)
		})
	}
	return cmd
}
