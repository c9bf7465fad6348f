package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bpfacq/bpfacq/userspace/control"
)

func newHostnames(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hostnames [TEXT]",
		Short: "List the host names that were asked for",
		Long: `Hostnames lists the names that applications asked for lately, and those that hold a
synthetic address, by name. With TEXT it lists those with this text in them.

  SYNTHETIC  the address of the pool that stands for the name, and for no other
  ORIGINAL   the first address that the resolver answered, if it answered any
  ACQUIRED   whether applications were given the synthetic address
  RULE       the rule that acquires the name
  ASKER      the process that asked last
  QUERIES    how often the name was asked for since the agent started
  USES       how many flows went to it since then

A name of /etc/hosts is never asked for, and so never acquired.`,
		Example: `  sudo bpfacq hostnames
  sudo bpfacq hostnames --acquired
  sudo bpfacq hostnames contoso -o json`,
		Args: operands,
	}
	at, output := agentFlags(e, cmd), outputFlag(cmd)
	acquired := cmd.Flags().Bool("acquired", false, "only names that are acquired")
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return at.knownNames(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := at.client()
		if err != nil {
			return err
		}
		answer, err := client.Hostnames(cmd.Context())
		if err != nil {
			return err
		}
		text := strings.ToLower(strings.Join(args, ""))
		answer.Hostnames = slices.DeleteFunc(answer.Hostnames, func(h control.Hostname) bool {
			return *acquired && !h.Acquired || !strings.Contains(h.Name, text)
		})
		return e.answer(output, answer, func(w io.Writer) { hostnameTable(w, answer.Hostnames) })
	}
	return cmd
}

func hostnameTable(w io.Writer, names []control.Hostname) {
	row(w, "NAME", "SYNTHETIC", "ORIGINAL", "ACQUIRED", "RULE", "ASKER", "QUERIES", "USES", "LAST ASKED")
	for _, h := range names {
		row(w, h.Name, addressList(h.Synthetic), address(h.Original), yesNo(h.Acquired), h.Rule, processText(h.PID, h.Command),
			h.Queries, h.Flows, h.Last)
	}
}

// completionLimit is how long somebody waits for a completion.
const completionLimit = time.Second

// knownNames are the names that can be completed: those that the agent knows, if
// it runs and answers at once.
func (p *place) knownNames(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, completionLimit)
	defer cancel()
	client, err := p.client()
	if err != nil {
		return nil
	}
	answer, err := client.Hostnames(ctx)
	if err != nil {
		return nil
	}
	names := make([]string, len(answer.Hostnames))
	for i, h := range answer.Hostnames {
		names[i] = h.Name
	}
	return names
}

// processText names a process, and nothing if it is not known.
func processText(pid uint32, command string) string {
	switch {
	case pid == 0:
		return ""
	case command == "":
		return fmt.Sprint(pid)
	}
	return fmt.Sprintf("%s(%d)", command, pid)
}

func addressList(addrs []netip.Addr) string {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, ", ")
}

// address shows an address, and nothing if there is none.
func address(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	return addr.String()
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}
