package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/control"
	"github.com/bpfacq/bpfacq/userspace/doctor"
	"github.com/bpfacq/bpfacq/userspace/policy"
)

// explained is an explanation and who gave it.
type explained struct {
	control.Explained
	Source string `json:"source"`         // "agent" or "file"
	File   string `json:"file,omitempty"` // the profile that was evaluated

	// HostsFile is the address that the host's own file has for the name: no
	// application asks for the name then.
	HostsFile string `json:"hosts_file,omitempty"`
}

func newExplain(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain tcp|udp HOST:PORT",
		Short: "Say what happens to a flow, and why",
		Long: `Explain says whether a flow to HOST:PORT is acquired, by which rule, and which other
rules cover it but lose, and by which way it goes. HOST is an address or a name; IPv6
addresses stand in brackets. A synthetic address is the name that it stands for.

A name is acquired if a Tunnel rule covers it on some port. Applications then get its
synthetic address; ports that no rule of the name covers go to its original address, the
one that the resolver gave, and the rules for addresses decide about that.

TCP of the host takes the socket path: connect() leads to the agent. All else takes the
packet path: UDP, and what comes from other network namespaces, is acquired as it leaves
by an uplink. --netns asks about a flow of such a namespace: a name that "ip netns"
knows, a path such as /run/netns/blue, or the number of one of its processes.

While the agent runs, it answers by the tables that the kernel has. Otherwise the
configured profile is evaluated. With --profile it is that file, whether the agent
runs or not: so a profile can be tried before it is applied. The answer says which
it was. A file tells neither the edges, which the agent never acquires, nor what
addresses names have; how names are acquired is as configured.`,
		Example: `  bpfacq explain tcp 192.168.11.200:80
  bpfacq explain udp [2001:db8::1]:53
  bpfacq explain tcp intranet.example.com:443
  sudo bpfacq explain --netns 4711 tcp 192.168.11.200:80
  bpfacq explain --profile new.json tcp intranet.example.com:443`,
		Args: operands,
	}
	at, output := agentFlags(e, cmd), outputFlag(cmd)
	file := cmd.Flags().String("profile", "", "evaluate this `file` and do not ask the agent")
	from := cmd.Flags().String("netns", "", "the flow comes from this network `namespace`: a name, path or process")
	e.completeExplain(cmd, at)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := control.ParseFlow(args[0], args[1]); err != nil {
			return &usageError{err.Error(), forExample(cmd)}
		}
		if *file != "" && *from != "" {
			return &usageError{"--profile says nothing of ways: only the agent knows them", "leave --profile or --netns out"}
		}
		ns, err := e.findNamespace(*from)
		if err != nil {
			return err
		}
		answer, err := e.explain(cmd.Context(), at, *file, ns, args)
		if err != nil {
			return err
		}
		answer.HostsFile = e.hostsFile(answer.Name)
		return e.answer(output, answer, answer.table)
	}
	return cmd
}

// completeExplain completes operands, and the value of --netns.
func (e *env) completeExplain(cmd *cobra.Command, at *place) {
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		switch len(args) {
		case 0:
			return []string{"tcp", "udp"}, cobra.ShellCompDirectiveNoFileComp
		case 1:
			names := at.knownNames(cmd.Context())
			for i := range names {
				names[i] += ":"
			}
			return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	namespaces := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return e.knownNamespaces(), cobra.ShellCompDirectiveDefault
	}
	// The only error is a flag that does not exist, and it does.
	_ = cmd.RegisterFlagCompletionFunc("netns", namespaces)
}

// hostsFile returns the address that the host's own file has for a name. Without
// the file there is none.
func (e *env) hostsFile(name string) string {
	content, err := os.ReadFile(e.hosts)
	if err != nil || name == "" {
		return ""
	}
	for known, addr := range doctor.HostsFile(string(content)) {
		if canonical, ok := policy.CanonicalName(known); ok && canonical == name {
			return addr
		}
	}
	return ""
}

// explain asks the agent, or a file when one is named or no agent runs.
func (e *env) explain(ctx context.Context, at *place, file string, from namespace, flow []string) (*explained, error) {
	if file != "" {
		c, err := at.load()
		if err != nil {
			byDefault := config.Default()
			c = &byDefault
			e.warn(fmt.Sprintf("how names are acquired is taken to be the default: %v", err))
		}
		return e.explainFile(file, c, flow)
	}
	client, err := at.client()
	if err != nil {
		return nil, err
	}
	answer, err := client.ExplainFrom(ctx, from.inode, flow[0], flow[1])
	switch {
	case err == nil:
		if answer.Path != nil && answer.Path.Namespace != "" {
			answer.Path.Namespace = from.name
		}
		return &explained{Explained: answer, Source: "agent"}, nil
	case !notRunning(err), from.inode != 0:
		return nil, err
	}
	c, configErr := at.load()
	if configErr != nil {
		return nil, configErr
	}
	fromFile, fileErr := e.explainFile(c.Profile, c, flow)
	if fileErr != nil {
		return nil, &adviceError{fmt.Errorf("%w\n%w", err, fileErr), "name a profile: bpfacq explain --profile FILE …"}
	}
	return fromFile, nil
}

func (e *env) explainFile(file string, c *config.Config, flow []string) (*explained, error) {
	p, err := e.readProfile(file)
	if err != nil {
		return nil, err
	}
	acquireNames(p.Policy, c)
	f, err := control.ParseFlow(flow[0], flow[1])
	if err != nil {
		return nil, err
	}
	return &explained{Explained: control.Explained{Explanation: policy.Explain(p.Policy, f)}, Source: "file", File: file}, nil
}

// acquireNames gives a policy what the agent would give it to acquire names with.
func acquireNames(p *policy.Policy, c *config.Config) {
	p.AlsoMatchOriginal = c.FQDN.AlsoMatchOriginalIP
	named := slices.ContainsFunc(p.Rules, func(r policy.Rule) bool {
		return r.Action == policy.ActionTunnel && (len(r.Names) > 0 || p.AlsoMatchOriginal)
	})
	if !named || !c.FQDN.Acquire || c.Relay.ExternalListener != "" || !p.Settings.SyntheticPool.IsValid() {
		return
	}
	p.Pools = append(p.Pools, p.Settings.SyntheticPool)
	if pool6 := c.FQDN.Pool6(); pool6.IsValid() {
		p.Pools = append(p.Pools, pool6)
	}
}

func (x *explained) table(w io.Writer) {
	row(w, "verdict", x.Verdict)
	reason := string(x.Reason)
	if x.Protection != "" {
		reason += ": " + x.Protection
	}
	row(w, "reason", reason)
	if h := x.Hostname; h != nil {
		x.hostnameRows(w, h)
	} else if x.Reason == policy.ReasonNoName {
		row(w, "meaning", x.noName())
	}
	if x.Reason == policy.ReasonQUIC && x.Hostname == nil {
		row(w, "meaning", "refused at once, so that a browser falls back to TCP, which is acquired")
	}
	if p := x.Path; p != nil {
		x.pathRows(w, p)
	}
	if r := x.Rule; r != nil {
		row(w, "rule", r.ID)
		row(w, "order", r.Order)
		row(w, "action", r.Action)
		row(w, "hardening", r.Hardening)
		row(w, "channel", r.Channel)
	}
	if x.HostsFile != "" {
		row(w, "but", fmt.Sprintf("/etc/hosts has the name at %s: applications connect there, and ask nobody", x.HostsFile))
	}
	if x.Source == "agent" {
		row(w, "asked", fmt.Sprintf("the agent, generation %d", x.Generation))
	} else {
		row(w, "asked", "the file "+x.File)
	}
	if len(x.Beaten) == 0 {
		return
	}
	row(w)
	row(w, "BEATEN RULE", "ORDER", "ACTION", "CHANNEL", "WHY")
	for _, b := range x.Beaten {
		row(w, b.ID, b.Order, b.Action, b.Channel, b.Why)
	}
}

// pathRows shows by which way a flow goes.
func (x *explained) pathRows(w io.Writer, p *control.Path) {
	if p.Namespace != "" {
		row(w, "from", p.Namespace)
	}
	way := p.Way
	switch p.Way {
	case control.WaySocket, control.WayPacket:
		way += " path"
	}
	row(w, "way", way+": "+p.Why)
}

// noName says what an address of the pool without a name means.
func (x *explained) noName() string {
	if x.Source == "agent" {
		return "an address of the pool that stands for no name: it is refused"
	}
	return "an address of the pool: which name it stands for, only the agent knows"
}

// hostnameRows shows what comes of the name of a flow.
func (x *explained) hostnameRows(w io.Writer, h *policy.ExplainedName) {
	row(w, "name", x.Name)
	row(w, "acquired", yesNo(h.Acquired))
	if x.Source == "agent" {
		row(w, "synthetic", addressList(h.Synthetic))
		row(w, "original", address(h.Original))
	} else {
		row(w, "original", "not known, as it is the resolvers' to say")
	}
	row(w, "decided by", h.DecidedBy)
	if h.AlsoMatchOriginal {
		row(w, "also", "rules for addresses count by the original address")
	}
	if h.OtherPorts != "" {
		row(w, "other ports", h.OtherPorts)
	}
	row(w, "meaning", h.Note)
}
