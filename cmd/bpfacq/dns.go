package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bpfacq/bpfacq/userspace/control"
)

func newDNS(e *env) *cobra.Command {
	return family(&cobra.Command{
		Use:   "dns",
		Short: "Look at how host names are resolved",
		Long:  `Dns looks at the DNS queries of the host, which the agent answers or passes on.`,
		Example: `  sudo bpfacq dns status
  sudo bpfacq dns query intranet.example.com`,
	}, newDNSStatus(e), newDNSQuery(e))
}

func newDNSStatus(e *env) *cobra.Command {
	return asking(e, &cobra.Command{
		Use:   "status",
		Short: "Show what becomes of DNS queries",
		Long: `Status says whether the host's DNS queries are taken, or why not; how much of the pool
of synthetic addresses is used; what became of queries and how long answers took since
the agent started, by the way they came from; and the servers that were asked.`,
		Example: `  sudo bpfacq dns status
  sudo bpfacq dns status -o json`,
		Args: operands,
	}, (*control.Client).DNS, dnsTable)
}

func dnsTable(w io.Writer, d *control.DNS) {
	row(w, "queries", dnsState(d))
	row(w, "pool", poolText(&d.Pool))
	if d.Pool.LogError != "" {
		row(w, "warning", "no new name is acquired: "+d.Pool.LogError)
	}
	row(w, "names on disk", fmt.Sprintf("%s, %s, %s on average, %s at most",
		size(uint64(d.Pool.LogSize)), plural(int(d.Pool.Syncs), "write"),
		milliseconds(d.Pool.SyncTime/float64(max(d.Pool.Syncs, 1))), milliseconds(d.Pool.SyncMax)))
	row(w, "name patterns", d.Patterns)
	row(w, "under way", fmt.Sprintf("%d queries, %d look-ups of original addresses, %d TCP connections", d.Pending, d.Lookups, d.Connections))
	countTable(w, "OUTCOME", "QUERIES", d.Queries)
	countTable(w, "EVENT", "TIMES", d.Events)
	latencyTable(w, d.Latency)
	if len(d.Servers) > 0 {
		row(w)
		row(w, "SERVER", "WAY", "QUERIES", "ANSWERS", "TIME-OUTS", "FAILURES", "MEAN", "P99", "CAUSE")
		for _, s := range d.Servers {
			row(w, s.Server, s.Way, s.Queries, s.Answers, s.Timeouts, s.Failures, mean(s.Latency), quantile(s.Latency, 0.99), s.Cause)
		}
	}
	if len(d.Private) > 0 {
		row(w)
		row(w, "PRIVATE SUFFIX", "SERVER", "SINGLE LABELS", "CHANNEL", "IN USE")
		for _, p := range d.Private {
			row(w, p.Suffix, p.Server, yesNo(p.SingleLabel), p.Channel, yesNo(p.Active))
		}
	}
}

// dnsState says whether queries are taken.
func dnsState(d *control.DNS) string {
	if !d.On {
		return "left alone: " + cmp.Or(d.Cause, "no cause is known")
	}
	var ports []string
	for _, family := range []struct {
		name string
		port uint16
	}{{"IPv4", d.PortIPv4}, {"IPv6", d.PortIPv6}} {
		if family.port != 0 {
			ports = append(ports, fmt.Sprintf("%s at port %d", family.name, family.port))
		}
	}
	return "taken: " + strings.Join(ports, ", ")
}

// poolText says how much of the pool is used.
func poolText(p *control.Pool) string {
	if len(p.Prefixes) == 0 {
		return ""
	}
	texts := make([]string, len(p.Prefixes))
	for i, prefix := range p.Prefixes {
		texts[i] = prefix.String()
	}
	text := fmt.Sprintf("%s: %d of %s used, %d by flows", strings.Join(texts, ", "), p.Used, plural(p.Capacity, "name"), p.Held)
	if p.Full > 0 {
		text += fmt.Sprintf("; %s it was full", plural(int(p.Full), "time"))
	}
	return text
}

// countTable lists the counts that are not zero, by name, if there are any.
func countTable(w io.Writer, name, count string, counts map[string]uint64) {
	header := false
	for _, counted := range slices.Sorted(maps.Keys(counts)) {
		n := counts[counted]
		if n == 0 {
			continue
		}
		if !header {
			header = true
			row(w)
			row(w, name, count)
		}
		row(w, counted, n)
	}
}

func latencyTable(w io.Writer, byWay map[string]control.Latency) {
	row(w)
	row(w, "WAY", "ANSWERS", "MEAN", "P50", "P99")
	for _, way := range slices.Sorted(maps.Keys(byWay)) {
		if l := byWay[way]; l.Count > 0 {
			row(w, way, l.Count, mean(l), quantile(l, 0.5), quantile(l, 0.99))
		}
	}
}

func mean(l control.Latency) string {
	if l.Count == 0 {
		return ""
	}
	return milliseconds(l.Sum / float64(l.Count))
}

// quantile shows the bound of a histogram below which a share of it lies.
func quantile(l control.Latency, share float64) string {
	bound, ok := l.Quantile(share)
	switch {
	case ok:
		return "≤ " + milliseconds(bound)
	case l.Count > 0 && len(l.Buckets) > 0:
		return "> " + milliseconds(l.Buckets[len(l.Buckets)-1].Bound)
	}
	return ""
}

// milliseconds shows a time that passed, in seconds, with three digits.
func milliseconds(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Microsecond).String()
}
