package profile

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// MaxSize is the size in bytes of the largest profile that [Parse] reads. A
// million address ranges fit, even in the vendor's own form.
const MaxSize = 64 << 20

var errTooLarge = errors.New("profile exceeds the size limit")

// document is a file that is known to hold one JSON value in UTF-8, and what
// was noticed while reading it.
type document struct {
	text []byte
	bom  int // bytes before text in the file: the byte order mark
	report

	patterns patternBudget
	ranges   int // address ranges so far
}

// read checks everything about a file that needs no knowledge of profiles. It
// stops at the first byte that cannot belong to a JSON value, so that a large
// file of anything else costs nothing.
func read(r io.Reader) (*document, error) {
	d := new(document)
	head := bufio.NewReader(r)
	start, err := head.Peek(4)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read profile: %w", err)
	}
	switch {
	case bytes.HasPrefix(start, []byte("\xef\xbb\xbf")):
		d.bom, _ = head.Discard(3)
	case bytes.HasPrefix(start, []byte("\xff\xfe")), bytes.HasPrefix(start, []byte("\xfe\xff")),
		bytes.IndexByte(start[:min(2, len(start))], 0) >= 0:
		d.reject(0, "", quote(string(start)), "UTF-8 text; this looks like UTF-16, save it as UTF-8")
		return nil, d.invalid(nil, 0)
	}

	source := &recorder{r: head}
	dec := json.NewDecoder(source)
	err = dec.Decode(new(anyValue))
	trailing := -1
	if err == nil {
		trailing, err = source.trailing(int(dec.InputOffset()))
	}
	d.text = source.text
	if source.err != nil {
		return nil, fmt.Errorf("read profile: %w", source.err)
	}
	d.checkText(err, trailing)
	return d, d.invalid(d.text, d.bom)
}

// checkText reports why the text is no JSON document: err is why reading
// stopped, trailing the offset of what follows the JSON value, or -1.
func (d *document) checkText(err error, trailing int) {
	end := len(d.text)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		offset := min(int(syntax.Offset)-1, end)
		d.reject(offset, "", d.excerpt(offset), "JSON: "+syntax.Error())
		return
	}
	switch {
	case errors.Is(err, errTooLarge):
		d.reject(end, "", fmt.Sprintf("more than %d bytes", MaxSize), fmt.Sprintf("at most %d bytes", MaxSize))
	case err != nil:
		d.reject(end, "", "the end of the file", "JSON: the rest of the document")
	case trailing >= 0:
		d.reject(trailing, "", d.excerpt(trailing), fmt.Sprintf("nothing after the document (offset %d)", d.bom+trailing))
	default:
		if offset := invalidUTF8(d.text); offset >= 0 {
			d.reject(offset, "", d.excerpt(offset), fmt.Sprintf("UTF-8 text (offset %d)", d.bom+offset))
		}
	}
}

// excerpt shows the bytes at an offset.
func (d *document) excerpt(offset int) string {
	if offset >= len(d.text) {
		return "the end of the file"
	}
	return quote(string(d.text[offset:min(offset+16, len(d.text))]))
}

// root returns the node of the whole document.
func (d *document) root() *node {
	start := skipSpace(d.text, 0)
	return &node{doc: d, start: start, end: valueEnd(d.text, start)}
}

// invalidUTF8 returns the offset of the first byte that is not UTF-8, or -1.
func invalidUTF8(text []byte) int {
	if utf8.Valid(text) {
		return -1
	}
	for i := 0; ; {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size <= 1 {
			return i
		}
		i += size
	}
}

// recorder keeps what was read from r, up to MaxSize.
type recorder struct {
	r    io.Reader
	text []byte
	err  error // why r could not be read
}

// Read reads from r. Its error is io.EOF, errTooLarge or rec.err.
func (rec *recorder) Read(p []byte) (int, error) {
	if len(rec.text) > MaxSize {
		return 0, errTooLarge
	}
	n, err := rec.r.Read(p[:min(len(p), MaxSize+1-len(rec.text))])
	rec.text = append(rec.text, p[:n]...)
	if err != nil && err != io.EOF {
		rec.err = err
	}
	return n, err
}

// trailing reads on and returns the offset of the first byte after offset that
// is not space, or -1 if there is none.
func (rec *recorder) trailing(offset int) (int, error) {
	buf := make([]byte, 4096)
	for {
		_, err := rec.Read(buf)
		if offset = skipSpace(rec.text, offset); offset < len(rec.text) && err != errTooLarge {
			return offset, nil
		}
		if err == io.EOF {
			return -1, nil
		}
		if err != nil {
			return -1, err
		}
	}
}

// anyValue makes the JSON decoder check a value and keep nothing of it.
type anyValue struct{}

// UnmarshalJSON accepts every value.
func (*anyValue) UnmarshalJSON([]byte) error { return nil }
