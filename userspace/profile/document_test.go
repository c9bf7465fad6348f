package profile

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf16"
)

func TestForeignTextIsRejectedWithItsPlace(t *testing.T) {
	text := sample(t)
	const bom = "\xef\xbb\xbf"
	for _, test := range []struct {
		name, text string
		problem    Problem
	}{
		{"empty", "", Problem{"", "the end of the file", "JSON: the rest of the document", 1, 1, 0}},
		{"space", " \r\n\t", Problem{"", "the end of the file", "JSON: the rest of the document", 2, 2, 4}},
		{"byte order mark alone", bom, Problem{"", "the end of the file", "JSON: the rest of the document", 1, 1, 3}},
		{"cut off", "{\n  \"policy\": {", Problem{"", "the end of the file", "JSON: the rest of the document", 2, 14, 15}},
		{"not JSON", "<xml>", Problem{"", `"<xml>"`, "JSON: invalid character '<' looking for beginning of value", 1, 1, 0}},
		{"missing comma", "{\"é\": 1\n \"b\": 2}", Problem{"", `"\"b\": 2}"`, `JSON: invalid character '"' after object key:value pair`, 2, 2, 10}},
		{"comma too many", bom + `{"a": 1,}`, Problem{"", `"}"`, `JSON: invalid character '}' looking for beginning of object key string`, 1, 9, 11}},
		{"comment", "{} // end", Problem{"", `"// end"`, "nothing after the document (offset 3)", 1, 4, 3}},
		{"trailing value", bom + "{}\n\n{}", Problem{"", `"{}"`, "nothing after the document (offset 7)", 3, 1, 7}},
		{"trailing NUL", "{}\n\x00", Problem{"", `"\x00"`, "nothing after the document (offset 3)", 2, 1, 3}},
		{"line feed in string", "\"a\nb\"", Problem{"", `"\nb\""`, `JSON: invalid character '\n' in string literal`, 1, 3, 2}},
		{"not UTF-8", "{\"a\": \"é\xff\"}", Problem{"", `"\xff\"}"`, "UTF-8 text (offset 9)", 1, 9, 9}},
		{"surrogate in UTF-8", "{\"\xed\xa0\x80\": 1}", Problem{"", `"\xed\xa0\x80\": 1}"`, "UTF-8 text (offset 2)", 1, 3, 2}},
		{"UTF-16 with byte order mark", "\xff\xfe" + utf16le("{}"), Problem{"", `"\xff\xfe{\x00"`,
			"UTF-8 text; this looks like UTF-16, save it as UTF-8", 1, 1, 0}},
		{"UTF-16 without byte order mark", utf16le(text), Problem{"", `"{\x00\n\x00"`,
			"UTF-8 text; this looks like UTF-16, save it as UTF-8", 1, 1, 0}},
		{"nested without end", strings.Repeat("[", 20_000), Problem{"", `"[[[[[[[[[[[[[[[["`, "JSON: invalid character '[' exceeded max depth", 1, 10_001, 10_000}},
		{"list", "[]", Problem{"", "a list", "an object", 1, 1, 0}},
		{"number", "\n 12", Problem{"", "12", "an object", 2, 2, 2}},
		{"null", "null", Problem{"", "null", "an object", 1, 1, 0}},
		{"empty object", "{}", Problem{"/policy", "nothing", "this field, which is required", 1, 1, 0}},
	} {
		t.Run(test.name, func(t *testing.T) { diff(t, problems(t, test.text), []Problem{test.problem}) })
	}
}

func utf16le(s string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return string(b)
}

// repeated is head and then fill for ever; it counts what was read.
type repeated struct {
	head string
	fill byte
	n    int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.head)
	r.head = r.head[n:]
	for i := n; i < len(p); i++ {
		p[i] = r.fill
	}
	r.n += len(p)
	return len(p), nil
}

func TestGarbageIsRejectedAfterItsFirstBytes(t *testing.T) {
	const size = 100 << 20
	for _, test := range []struct {
		name, head string
		fill       byte
		most       int // bytes read
	}{
		{"letters", "", 'x', 8 << 10},
		{"zeros", "", 0, 8 << 10},
		{"not UTF-8", "", 0xfe, 8 << 10},
		{"brackets", "", '[', 64 << 10},
		{"after a profile", valid, 'x', len(valid) + 16<<10},
		{"control characters in a string", `"`, 1, 8 << 10},
		{"endless string", `"`, 'x', MaxSize + 4096},
		{"endless space after a profile", valid, ' ', MaxSize + 4096},
	} {
		t.Run(test.name, func(t *testing.T) {
			garbage := &repeated{head: test.head, fill: test.fill}
			p, err := Parse(io.LimitReader(garbage, size))
			invalid, ok := errors.AsType[*InvalidError](err)
			if !ok || p != nil {
				t.Fatalf("%v, %T: %v", p, err, err)
			}
			if garbage.n > test.most {
				t.Errorf("read %d bytes, want at most %d", garbage.n, test.most)
			}
			if len(err.Error()) > 500 {
				t.Errorf("%d bytes of message", len(err.Error()))
			}
			if large := test.most > MaxSize; large != (invalid.Problems[0].Want == "at most 67108864 bytes") {
				t.Error(err)
			}
		})
	}
}

func TestReadErrorIsNotAProblemOfTheProfile(t *testing.T) {
	broken := errors.New("broken pipe")
	for _, text := range []string{"", "{}", valid, valid[:100], strings.Repeat(" ", 5000)} {
		for _, err := range []error{broken, io.ErrUnexpectedEOF} {
			p, got := Parse(io.MultiReader(strings.NewReader(text), iotest.ErrReader(err)))
			if p != nil || !errors.Is(got, err) {
				t.Errorf("%v, %v after %d bytes, want %v", p, got, len(text), err)
			}
			if _, ok := errors.AsType[*InvalidError](got); ok {
				t.Errorf("%v is an InvalidError", got)
			}
		}
	}
}

func TestShortReadsChangeNothing(t *testing.T) {
	want := mustParse(t, valid)
	for _, r := range []io.Reader{
		iotest.OneByteReader(strings.NewReader(valid)),
		iotest.DataErrReader(strings.NewReader(valid)),
	} {
		got, err := Parse(r)
		if err != nil {
			t.Fatal(err)
		}
		diff(t, got, want)
	}
	if _, err := Parse(iotest.DataErrReader(strings.NewReader(valid + "x"))); err == nil {
		t.Error("trailing byte is accepted when it comes with io.EOF")
	}
}

func TestProfileOfTheLargestSizeIsAccepted(t *testing.T) {
	text := valid + strings.Repeat("\n", MaxSize-len(valid))
	mustParse(t, text)
	if _, err := Parse(strings.NewReader(text + "\n")); err == nil {
		t.Error("a larger one is accepted too")
	}
}
