package lines

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
)

func TestLinesArePassedOnWhenTheyAreWhole(t *testing.T) {
	var got []string
	s := &Splitter{Take: func(line []byte) error {
		got = append(got, string(line))
		return nil
	}}
	for _, part := range []string{"o", "ne\ntwo\n\nth", "ree\r\n", "four"} {
		if n, err := io.WriteString(s, part); n != len(part) || err != nil {
			t.Errorf("write of %q: %d, %v", part, n, err)
		}
	}
	if want := []string{"one", "two", "", "three\r"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLineThatIsNotTakenEndsTheWrite(t *testing.T) {
	full := errors.New("no space left")
	s := &Splitter{Take: func([]byte) error { return full }}
	if n, err := io.WriteString(s, "half a line"); n != 11 || err != nil {
		t.Errorf("write of half a line: %d, %v", n, err)
	}
	if _, err := io.WriteString(s, "\n"); !errors.Is(err, full) {
		t.Errorf("write of its end: %v, want %v", err, full)
	}
}

func TestLinesOfSeveralWritersStayWhole(t *testing.T) {
	var all bytes.Buffer
	o := NewOutput(&all)
	a, b := o.Of("5.10\t"), o.Of("")
	for _, part := range []struct {
		to   io.Writer
		text string
	}{{a, "o"}, {b, "t"}, {a, "ne\n"}, {b, "wo\nthree\nfo"}} {
		if _, err := io.WriteString(part.to, part.text); err != nil {
			t.Fatal(err)
		}
	}
	if want := "5.10\tone\ntwo\nthree\n"; all.String() != want {
		t.Errorf("got %q, want %q", all.String(), want)
	}
}
