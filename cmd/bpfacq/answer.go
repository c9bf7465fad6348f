package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/bpfacq/bpfacq/userspace/control"
)

// format is the value of -o.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
)

// Set reads what was typed after -o.
func (f *format) Set(s string) error {
	if s != string(formatTable) && s != string(formatJSON) {
		return fmt.Errorf("want %s or %s", formatTable, formatJSON)
	}
	*f = format(s)
	return nil
}

// String returns the format's name.
func (f *format) String() string { return string(*f) }

// Type names the kind of value in help texts.
func (f *format) Type() string { return "format" }

// outputFlag adds -o to a command that answers questions.
func outputFlag(cmd *cobra.Command) *format {
	f := formatTable
	cmd.Flags().VarP(&f, "output", "o", "how to answer: table or json")
	complete := cobra.FixedCompletions([]string{string(formatTable), string(formatJSON)}, cobra.ShellCompDirectiveNoFileComp)
	// The only error is a flag that does not exist, and it does.
	_ = cmd.RegisterFlagCompletionFunc("output", complete)
	return &f
}

// answer writes a value as JSON, or what table makes of it in aligned columns.
func (e *env) answer(f *format, value any, table func(io.Writer)) error {
	if *f == formatJSON {
		enc := json.NewEncoder(e.stdout)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(value)
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	table(w)
	return w.Flush()
}

// row writes the cells of one line of a table.
func row(w io.Writer, cells ...any) {
	texts := make([]string, len(cells))
	for i, c := range cells {
		texts[i] = cell(c)
	}
	fmt.Fprintln(w, strings.Join(texts, "\t"))
}

// cell shows a value. Profiles, edges and process names are foreign text: what
// could move the cursor of a terminal is escaped.
func cell(value any) string {
	text := fmt.Sprint(value)
	switch v := value.(type) {
	case time.Time:
		text = ""
		if !v.IsZero() {
			text = v.Local().Format(time.DateTime)
		}
	case float64:
		text = strconv.FormatFloat(v, 'f', -1, 64)
	}
	if text == "" {
		return "-"
	}
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// size is a number of bytes in the unit that leaves up to four digits.
func size(bytes uint64) string {
	const units = "KMGTPE"
	if bytes < 10_000 {
		return fmt.Sprintf("%d B", bytes)
	}
	scaled, unit := float64(bytes)/1024, 0
	for scaled >= 9_999.5 && unit < len(units)-1 {
		scaled, unit = scaled/1024, unit+1
	}
	return fmt.Sprintf("%.0f %ciB", scaled, units[unit])
}

// plural counts a noun.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// asking makes of cmd a command that asks the agent one question and shows the
// answer as a table or as JSON.
func asking[T any](e *env, cmd *cobra.Command, ask func(*control.Client, context.Context) (T, error), table func(io.Writer, *T)) *cobra.Command {
	at, output := agentFlags(e, cmd), outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := at.client()
		if err != nil {
			return err
		}
		answer, err := ask(client, cmd.Context())
		if err != nil {
			return err
		}
		return e.answer(output, answer, func(w io.Writer) { table(w, &answer) })
	}
	return cmd
}
