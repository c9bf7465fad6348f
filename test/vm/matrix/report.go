package matrix

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is what came of one kernel.
type report struct {
	series  string
	release string
	boot    time.Duration
	took    time.Duration // from the start of the machine to its end
	code    int           // of the guest
	tally   *tally
	absent  bool  // not offered, which nobody minds
	err     error // for which there is nothing else
}

// finished reports whether tests were run to their end, whatever came of them.
func (r report) finished() bool { return r.err == nil && !r.absent }

// problems are the reasons for which this kernel has not passed. A machine that
// says that all passed is not believed: every package must say so, too.
func (r report) problems(packages []string) []string {
	var all []string
	for _, id := range r.tally.ended(failed) {
		all = append(all, fmt.Sprintf("%s failed", id))
	}
	for _, id := range r.tally.ended(unending) {
		all = append(all, fmt.Sprintf("%s did not end", id))
	}
	for _, id := range r.tally.ended(skipped) {
		if err := checkSkip(r.tally.reasons[id], r.release); err != nil {
			all = append(all, fmt.Sprintf("%s was skipped: %v", id, err))
		}
	}
	for _, pack := range packages {
		switch end := r.tally.ends[test{pack, ""}]; {
		case end == failed:
			all = append(all, pack+" failed")
		case end != passed:
			all = append(all, pack+" did not end")
		}
	}
	if r.code != 0 && len(all) == 0 {
		all = append(all, fmt.Sprintf("guest ended with code %d", r.code))
	}
	return all
}

// skippedEverywhere returns the tests that ran on none of the kernels. Of one
// kernel alone that says nothing.
func skippedEverywhere(reports []report) []test {
	kernels := 0
	ran := make(map[test]bool)
	for _, r := range reports {
		if !r.finished() {
			continue
		}
		kernels++
		for id, end := range r.tally.ends {
			ran[id] = ran[id] || end != skipped || id.name == ""
		}
	}
	if kernels < 2 {
		return nil
	}
	maps.DeleteFunc(ran, func(_ test, did bool) bool { return did })
	return slices.SortedFunc(maps.Keys(ran), compareTests)
}

// writeTable writes a line for each kernel, and below it what was skipped.
func writeTable(w io.Writer, reports []report) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "kernel\trelease\tboot\ttotal\trun\tpassed\tfailed\tskipped")
	for _, r := range reports {
		switch {
		case r.absent:
			fmt.Fprintf(table, "%s\tnot offered\n", r.series)
		case !r.finished():
			fmt.Fprintf(table, "%s\t%s\tno verdict\n", r.series, cmp.Or(r.release, "-"))
		default:
			pass, skip := r.tally.count(passed), r.tally.count(skipped)
			fail := r.tally.count(failed) + r.tally.count(unending)
			fmt.Fprintf(table, "%s\t%s\t%.1f s\t%.0f s\t%d\t%d\t%d\t%d\n", r.series, r.release,
				r.boot.Seconds(), r.took.Seconds(), pass+fail, pass, fail, skip)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, r := range reports {
		if !r.finished() {
			continue
		}
		for _, id := range r.tally.ended(skipped) {
			fmt.Fprintf(w, "skipped on %s: %s: %s\n", r.series, id, r.tally.reasons[id])
		}
	}
	return nil
}

// judge returns an error that names everything for which the run has not
// passed.
func judge(reports []report, packages []string) error {
	var all []string
	for _, r := range reports {
		problems := []string{fmt.Sprint(r.err)}
		if r.finished() {
			problems = r.problems(packages)
		}
		for _, problem := range problems {
			if !r.absent {
				all = append(all, r.series+": "+problem)
			}
		}
	}
	for _, id := range skippedEverywhere(reports) {
		all = append(all, fmt.Sprintf("%s was skipped on every kernel", id))
	}
	if len(all) == 0 && !slices.ContainsFunc(reports, report.finished) {
		all = append(all, "no kernel was run")
	}
	if len(all) == 0 {
		return nil
	}
	return errors.New("test kernels:\n  " + strings.Join(all, "\n  "))
}
