package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bpfacq/bpfacq/maps"
)

func newMaps(e *env) *cobra.Command {
	return family(&cobra.Command{
		Use:     "maps",
		Short:   "Look into the kernel's maps",
		Long:    `Maps looks into the maps that the datapath has pinned. It needs no agent.`,
		Example: `  sudo bpfacq maps dump channel`,
	}, newMapsDump(e))
}

// mapsAnswer is what maps dump read.
type mapsAnswer struct {
	Schema int                         `json:"schema"`
	Pins   string                      `json:"pins"`
	Maps   map[string][]map[string]any `json:"maps"` // rows by columns

	tables []mapTable
}

type mapTable struct {
	name    string
	columns []string
	rows    [][]any
}

func newMapsDump(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dump [MAP]",
		Short: "Decode the pinned maps",
		Long: `Dump decodes one of the pinned maps, or all: what policy is in force, its prefixes, port
classes, verdicts and channels, synthetic addresses and their originals, connections on
their way to the relay, uplinks and their enclaves, who opened flows, whose sockets
packets are of, and counters.
It reads the pins, and so works also when no agent runs.

` + paragraph("The maps are "+strings.Join(maps.Names(), ", ")+"."),
		Example: `  sudo bpfacq maps dump
  sudo bpfacq maps dump prefix4
  sudo bpfacq maps dump counter -o json`,
		Args:      operands,
		ValidArgs: maps.Names(),
	}
	at, output := configFlag(e, cmd), outputFlag(cmd)
	pins := pinsFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		names := maps.Names()
		if len(args) > 0 {
			if !slices.Contains(names, args[0]) {
				return &usageError{fmt.Sprintf("unknown map %q", args[0]), "the maps are " + strings.Join(names, ", ")}
			}
			names = args
		}
		folder, err := at.pins(*pins)
		if err != nil {
			return err
		}
		answer, err := e.dump(folder, names)
		if err != nil {
			return err
		}
		return e.answer(output, answer, answer.table)
	}
	return cmd
}

// paragraph breaks a text into lines as long as those of the other help texts.
func paragraph(text string) string {
	const width = 88
	var lines strings.Builder
	length := 0
	for word := range strings.FieldsSeq(text) {
		switch length += 1 + len(word); {
		case lines.Len() == 0:
			length = len(word)
		case length > width:
			lines.WriteByte('\n')
			length = len(word)
		default:
			lines.WriteByte(' ')
		}
		lines.WriteString(word)
	}
	return lines.String()
}

// dump reads the named maps below a pin folder.
func (e *env) dump(pins string, names []string) (*mapsAnswer, error) {
	m, err := e.pinned(pins)
	if errors.Is(err, maps.ErrNotPinned) {
		return nil, &adviceError{err, "the datapath is not loaded; sudo bpfacq run loads it"}
	}
	if err != nil {
		return nil, err
	}
	defer m.Close()
	answer := &mapsAnswer{Schema: 1, Pins: pins, Maps: make(map[string][]map[string]any)}
	for _, name := range names {
		d, err := m.Dump(name)
		if err != nil {
			return nil, err
		}
		if err := answer.add(name, d); err != nil {
			return nil, fmt.Errorf("dump map %s: %w", name, err)
		}
	}
	return answer, nil
}

func (a *mapsAnswer) add(name string, d maps.Dump) error {
	t := mapTable{name: name, columns: d.Columns}
	objects := []map[string]any{}
	for cells, err := range d.Rows {
		if err != nil {
			return err
		}
		object := make(map[string]any, len(cells))
		for i, c := range cells {
			object[d.Columns[i]] = c
		}
		t.rows, objects = append(t.rows, cells), append(objects, object)
	}
	a.tables, a.Maps[name] = append(a.tables, t), objects
	return nil
}

// table shows each map under its name, unless there is only one.
func (a *mapsAnswer) table(w io.Writer) {
	for i, t := range a.tables {
		if len(a.tables) > 1 {
			if i > 0 {
				row(w)
			}
			fmt.Fprintf(w, "%s:\n", t.name)
		}
		header := make([]any, len(t.columns))
		for i, c := range t.columns {
			header[i] = strings.ToUpper(strings.ReplaceAll(c, "_", " "))
		}
		row(w, header...)
		for _, cells := range t.rows {
			row(w, cells...)
		}
	}
}
