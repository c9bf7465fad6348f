package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// mostAdded is how many microseconds the hooks may add to a connect() that they
// leave alone.
const mostAdded = 0.5

// report is everything that was measured.
type report struct {
	Schema         int              `json:"schema"`
	Machine        machine          `json:"machine"`
	Rounds         int              `json:"rounds"`
	Turn           string           `json:"turn"` // how long each contender is measured in each round
	Contenders     []described      `json:"contenders"`
	Comparisons    []comparison     `json:"comparisons"`
	Packets        []comparison     `json:"packets"` // of the packet path
	Connect        []connectFigure  `json:"connect"`
	Classification []classification `json:"classification"`
	Idle           *idle            `json:"idle"`
	Took           string           `json:"took"`

	begun time.Time
}

// machine is where it was measured.
type machine struct {
	Kernel     string `json:"kernel"`
	Processors int    `json:"processors"`
	LoadBefore string `json:"load_before"` // of everything on it, from /proc/loadavg
	LoadAfter  string `json:"load_after"`
}

// described is a contender in words.
type described struct {
	Name string `json:"name"`
	How  string `json:"how"`
}

func newReport(t *testing.T, p pace) *report {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	return &report{
		Schema: 1,
		Machine: machine{
			Kernel:     unix.ByteSliceToString(name.Release[:]),
			Processors: runtime.NumCPU(),
			LoadBefore: loadAverage(t),
		},
		Rounds: p.rounds,
		Turn:   p.slice.String(),
		begun:  time.Now(),
	}
}

func loadAverage(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

func (r *report) describe(contenders []contender) {
	for _, c := range contenders {
		r.Contenders = append(r.Contenders, described{c.name, c.how})
	}
}

// finish prints the tables, and writes everything as JSON if asked to.
func (r *report) finish(t *testing.T) {
	t.Helper()
	r.Machine.LoadAfter = loadAverage(t)
	r.Took = time.Since(r.begun).Round(time.Second).String()
	r.print(t.Output())
	if *jsonFile == "" {
		return
	}
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(*jsonFile), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*jsonFile, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "\n%d processors, Linux %s, load %s before and %s after; %s\n\n",
		r.Machine.Processors, r.Machine.Kernel, r.Machine.LoadBefore, r.Machine.LoadAfter, r.Took)
	for _, c := range r.Contenders {
		fmt.Fprintf(w, "%-9s %s\n", c.Name, c.How)
	}
	r.printRatios(w, "Ratios to direct flows", r.Contenders, r.Comparisons)
	r.printRatios(w, "Packet path: ratios to the same without an agent", packetsDescribed(), r.Packets)
	r.printProcessor(w, slices.Concat(r.Comparisons, r.Packets))
	r.printConnect(w)
	r.printClassification(w)
	r.printIdle(w)
}

// table calls rows with a function that writes one row of cells.
func table(w io.Writer, title string, rows func(row func(cells ...string))) {
	fmt.Fprintf(w, "\n%s\n\n", title)
	out := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	rows(func(cells ...string) { fmt.Fprintln(out, strings.Join(cells, "\t")) })
	out.Flush()
}

// packetsDescribed are the columns of what is measured of the packet path.
func packetsDescribed() []described {
	columns := []described{{Name: "direct"}, {Name: "bypassed"}, {Name: "acquired"}, {Name: "by HTTP/3"}}
	if *against != "" {
		columns = append(columns, described{Name: "other"})
	}
	return columns
}

func (r *report) printRatios(w io.Writer, title string, contenders []described, comparisons []comparison) {
	title = fmt.Sprintf("%s: median of %d rounds, its quartiles, and the target", title, r.Rounds)
	table(w, title, func(row func(...string)) {
		cells := []string{"", "direct"}
		for _, c := range contenders[1:] {
			cells = append(cells, c.Name)
		}
		row(cells...)
		for _, c := range comparisons {
			if len(c.Results) == 0 {
				continue
			}
			cells := []string{c.Name, fmt.Sprintf("%.5g %s", c.Results[0].Value, c.Unit)}
			for _, of := range c.Results[1:] {
				cells = append(cells, fmt.Sprintf("%.2f (%.2f to %.2f) %s", of.Ratio, of.Lower, of.Upper, of.Target))
			}
			row(cells...)
		}
	})
}

func (r *report) printProcessor(w io.Writer, comparisons []comparison) {
	table(w, "Processor time in µs, by process", func(row func(...string)) {
		for _, c := range comparisons {
			for _, of := range c.Results {
				sum, parts := 0.0, []string{}
				for _, role := range slices.Sorted(maps.Keys(of.Processor)) {
					sum += of.Processor[role]
					parts = append(parts, fmt.Sprintf("%s %.1f", role, of.Processor[role]))
				}
				row(c.Name, of.Contender, fmt.Sprintf("%.1f for each %s", sum, c.Per), strings.Join(parts, ", "))
			}
		}
	})
}

func (r *report) printConnect(w io.Writer) {
	table(w, "connect(), blocking, in µs", func(row func(...string)) {
		row("", "p50", "p99", "added to p50")
		for _, c := range r.Connect {
			cells := []string{c.Contender, fmt.Sprintf("%.2f", c.P50), fmt.Sprintf("%.2f", c.P99)}
			if c.AddedTo != "" {
				cells = append(cells, fmt.Sprintf("%+.2f to %s", c.Added, c.AddedTo))
			}
			if c.Contender == "bypassed" {
				cells = append(cells, goal("≤", mostAdded, c.Added <= mostAdded))
			}
			row(cells...)
		}
	})
}

func (r *report) printClassification(w io.Writer) {
	table(w, "Classification: connect() to where no route leads, in ns", func(row func(...string)) {
		row("prefixes", "without hooks", "with hooks", "added", "policy compiled", "and loaded")
		for _, c := range r.Classification {
			row(fmt.Sprint(c.Prefixes), fmt.Sprintf("%.0f", c.Plain), fmt.Sprintf("%.0f", c.Hooked),
				fmt.Sprintf("%+.0f", c.Added), fmt.Sprintf("%.1f ms", c.Compile), fmt.Sprintf("%.1f ms", c.Load))
		}
	})
}

func (r *report) printIdle(w io.Writer) {
	if r.Idle == nil {
		return
	}
	title := fmt.Sprintf("%d idle flows, made at %.0f a second: resident bytes for each", r.Idle.Flows, r.Idle.Setup)
	table(w, title, func(row func(...string)) {
		row("", "as it comes", "after a collection")
		for _, m := range r.Idle.Bytes {
			row(m.Role, fmt.Sprintf("%.0f", m.PerFlow), fmt.Sprintf("%.0f", m.Collected))
		}
	})
}

// goal is a target in words, and whether it is reached.
func goal(sign string, limit float64, reached bool) string {
	if reached {
		return fmt.Sprintf("%s %g reached", sign, limit)
	}
	return fmt.Sprintf("%s %g MISSED", sign, limit)
}
