package maps

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

// namedTables are tables with a pool, two names, and room for two rows and one
// name more.
func namedTables() *Tables {
	t := tables()
	t.Width, t.SpareRows, t.SpareNames = 2, 2, 1
	t.Entries = append(t.Entries, Entry{ID: "pool", Action: ActionSynthetic})
	t.Names = []Name{
		{Addr: addr("6.6.0.1"), Original: addr("192.0.2.1"), Row: 2},
		{Addr: addr("fd66::1"), Row: 4},
	}
	return t
}

func storedNames(t *testing.T, m *Maps) (generation uint32) {
	t.Helper()
	generation, err := m.Store(namedTables())
	if err != nil {
		t.Fatal(err)
	}
	return generation
}

// wantName checks what the tables in force say of an address.
func wantName(t *testing.T, m *Maps, want Name, known bool) {
	t.Helper()
	v, err := m.View()
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	got, found, err := v.Name(want.Addr)
	if err != nil || found != known || known && got != want {
		t.Errorf("name of %s is %+v, %t, %v; want %+v, %t", want.Addr, got, found, err, want, known)
	}
}

func TestStoredNamesAnswerAsWritten(t *testing.T) {
	m := load(t)
	storedNames(t, m)
	for _, n := range namedTables().Names {
		wantName(t, m, n, true)
	}
	wantName(t, m, Name{Addr: addr("6.6.0.2")}, false)
	d, err := m.Dump("name")
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[any][]any)
	for row, err := range d.Rows {
		if err != nil {
			t.Fatal(err)
		}
		got[row[0]] = row[1:]
	}
	want := map[any][]any{"6.6.0.1": {"192.0.2.1", uint32(1)}, "fd66::1": {"", uint32(2)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("dump:\n%s", diff)
	}
}

func TestNamesAndRowsAreAddedUntilTheyAreFull(t *testing.T) {
	m := load(t)
	generation := storedNames(t, m)
	for _, want := range []uint32{6, 8} {
		if row, err := m.AppendRow(generation, []uint32{want, 0}); err != nil || row != want {
			t.Errorf("append row: %d, %v; want %d", row, err, want)
		}
	}
	if row, err := m.AppendRow(generation, []uint32{1, 1}); !errors.Is(err, ErrRowsFull) {
		t.Errorf("append a row too many: %d, %v; want ErrRowsFull", row, err)
	}
	v, err := m.View()
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for index, want := range []uint32{1, 1, 1, 2, 3, 3, 6, 0, 8, 0} {
		var cell uint32
		if err := v.inners[innerVerdict].Lookup(uint32(index), &cell); err != nil || cell != want {
			t.Errorf("cell %d is %d, %v; want %d", index, cell, err, want)
		}
	}

	added := Name{Addr: addr("6.6.0.2"), Row: 8}
	if err := m.PutName(generation, added); err != nil {
		t.Fatal(err)
	}
	wantName(t, m, added, true)
	if err := m.PutName(generation, Name{Addr: addr("6.6.0.3"), Row: 8}); !errors.Is(err, ErrNamesFull) {
		t.Errorf("put a name too many: %v; want ErrNamesFull", err)
	}
	replaced := Name{Addr: addr("6.6.0.1"), Original: addr("192.0.2.9"), Row: 6}
	if err := m.PutName(generation, replaced); err != nil {
		t.Errorf("replace a name of a full table: %v", err)
	}
	wantName(t, m, replaced, true)
	for range 2 {
		if err := m.DeleteName(generation, added.Addr); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	wantName(t, m, added, false)
}

func TestNamesAreWrittenIntoTheirOwnGenerationOnly(t *testing.T) {
	m := load(t)
	n := Name{Addr: addr("6.6.0.2"), Row: 2}
	write := func(m *Maps, generation uint32) []error {
		_, err := m.AppendRow(generation, []uint32{1, 1})
		return []error{err, m.PutName(generation, n), m.DeleteName(generation, n.Addr)}
	}
	refused := func(when string, errs []error) {
		t.Helper()
		for i, err := range errs {
			if !errors.Is(err, ErrGeneration) {
				t.Errorf("%s: call %d gives %v, want ErrGeneration", when, i, err)
			}
		}
	}
	refused("no policy", write(m, 0))
	first := storedNames(t, m)
	second := storedNames(t, m)
	refused("an old generation", write(m, first))
	refused("a coming generation", write(m, second+1))
	third := storedNames(t, m) // the slot of the first
	refused("an old generation in the same slot", write(m, first))
	wantName(t, m, n, false)

	// Another process cannot know how far the rows are filled.
	refused("another process", write(&Maps{objects: m.objects}, third))
	for i, err := range write(m, third) {
		if err != nil {
			t.Errorf("call %d gives %v", i, err)
		}
	}
}

func TestBadNamesAndRowsAreRefused(t *testing.T) {
	m := load(t)
	for name, mutate := range map[string]func(*Tables){
		"a row beyond the table":        func(t *Tables) { t.Names[0].Row = 6 },
		"an original of another family": func(t *Tables) { t.Names[0].Original = addr("2001:db8::1") },
	} {
		bad := namedTables()
		mutate(bad)
		if generation, err := m.Store(bad); err == nil {
			t.Errorf("%s is stored as generation %d", name, generation)
		}
	}
	generation := storedNames(t, m)
	if row, err := m.AppendRow(generation, []uint32{1}); err == nil {
		t.Errorf("a short row is appended as %d", row)
	}
	for name, n := range map[string]Name{
		"a row that was not appended":   {Addr: addr("6.6.0.2"), Row: 6},
		"an original of another family": {Addr: addr("fd66::2"), Original: addr("192.0.2.1"), Row: 2},
	} {
		if err := m.PutName(generation, n); err == nil {
			t.Errorf("%s is put", name)
		}
		wantName(t, m, n, false)
	}
}
