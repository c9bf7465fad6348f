package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bpfacq/bpfacq/userspace/control"
)

func newDNSQuery(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "query NAME|ADDRESS [TYPE]",
		Short: "Ask for a name, and tell each step",
		Long: `Query has the agent ask for a name as it does for an application, and tells each step:
what the policy says of the name, which server was asked how, what it answered, and
what was made of the answer. TYPE is one such as A, AAAA, HTTPS or TYPE65, by default A.
For an address, its names are asked for.

With --server the query is meant for that server, otherwise for one of the host's. A
name that is acquired gets, or keeps, its synthetic address.

The exit status is 1 if there is no answer, or the answer is an error such as NXDOMAIN.`,
		Example: `  sudo bpfacq dns query intranet.example.com
  sudo bpfacq dns query intranet.example.com AAAA --server 192.0.2.53
  sudo bpfacq dns query 6.6.0.5 -o json`,
		Args: operands,
	}
	at, output := agentFlags(e, cmd), outputFlag(cmd)
	server := cmd.Flags().String("server", "", "ask this `address` (with :PORT if it is not 53)")
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var known []string
		switch len(args) {
		case 0:
			known = at.knownNames(cmd.Context())
		case 1:
			known = []string{"A", "AAAA", "CNAME", "HTTPS", "MX", "NS", "PTR", "SOA", "SRV", "SVCB", "TXT"}
		}
		return known, cobra.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		kind := ""
		if len(args) > 1 {
			kind = args[1]
		}
		if _, err := control.ParseQuestion(args[0], kind, *server); err != nil {
			return &usageError{err.Error(), forExample(cmd)}
		}
		client, err := at.client()
		if err != nil {
			return err
		}
		trace, err := client.DNSQuery(cmd.Context(), args[0], kind, *server)
		if errors.Is(err, control.ErrQuestion) {
			return &usageError{err.Error(), forExample(cmd)}
		}
		if err != nil {
			return err
		}
		if err := e.answer(output, trace, func(w io.Writer) { traceTable(w, &trace) }); err != nil {
			return err
		}
		return traceVerdict(&trace)
	}
	return cmd
}

// traceTable tells the steps of a query in their order.
func traceTable(w io.Writer, t *control.Trace) {
	row(w, "STEP", "TOOK", "WHAT")
	for i, hop := range t.Hops {
		row(w, hop.Kind, milliseconds(hop.Took), hopText(&hop))
		if i < len(t.Hops)-1 || !slices.Equal(hop.Records, t.Records) {
			recordRows(w, hop.Records)
		}
	}
	end := t.Code
	if end == "" {
		end = "no answer: " + cmp.Or(t.Cause, "no cause is known")
	}
	row(w, "answer", milliseconds(t.Took), end)
	recordRows(w, t.Records)
}

// recordRows shows records below what they belong to. In a table, their tabs would
// be columns.
func recordRows(w io.Writer, records []string) {
	for _, record := range records {
		fmt.Fprintf(w, "\t\t  %s\n", cell(strings.Join(strings.Fields(record), " ")))
	}
}

// hopText is a step in words: those of the agent, and whom it asked how with what
// result.
func hopText(hop *control.Hop) string {
	text := hop.Text
	if !strings.Contains(text, hop.Server) {
		text += " " + hop.Server
	}
	if hop.Network != "" {
		text += " by " + hop.Network
	}
	if hop.Way != "" {
		text += " (" + hop.Way + ")"
	}
	for _, result := range []string{hop.Code, hop.Cause} {
		if result != "" {
			text += ": " + result
		}
	}
	return text
}

// traceVerdict is the error that gives the command its exit status.
func traceVerdict(t *control.Trace) error {
	name := cmp.Or(t.Name, ".")
	switch t.Code {
	case "":
		return fmt.Errorf("ask for %s %q: no answer", t.Type, name)
	case "NOERROR":
		return nil
	}
	return fmt.Errorf("ask for %s %q: the answer is %s", t.Type, name, t.Code)
}
