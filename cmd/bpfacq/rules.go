package main

import (
	"cmp"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bpfacq/bpfacq/userspace/control"
)

func newRules(e *env) *cobra.Command {
	return asking(e, &cobra.Command{
		Use:   "rules",
		Short: "List the rules of the loaded policy",
		Long: `Rules lists the rules of the loaded policy in the order in which they are tried: the
first that covers a flow decides. The table has a line for every destination.`,
		Example: `  sudo bpfacq rules
  sudo bpfacq rules -o json`,
		Args: operands,
	}, (*control.Client).Rules, ruleTable)
}

func ruleTable(w io.Writer, answer *control.RuleList) {
	row(w, "ORDER", "ACTION", "PROTOCOL", "DESTINATION", "PORTS", "CHANNEL", "HARDENING", "RULE")
	for _, r := range answer.Rules {
		if r.QUIC != "" {
			r.Protocol += ", quic: " + r.QUIC
		}
		ports, channel := strings.Join(r.Ports, ","), cmp.Or(r.Name, r.Channel)
		for _, destination := range slices.Concat(r.Addresses, r.Names) {
			row(w, r.Order, r.Action, r.Protocol, destination, ports, channel, r.Hardening, r.ID)
		}
		if len(r.Addresses)+len(r.Names) == 0 {
			row(w, r.Order, r.Action, r.Protocol, "", ports, channel, r.Hardening, r.ID)
		}
	}
}
