package profile

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// str reads a string as it stands.
func (n *node) str() (string, bool) {
	if n == nil {
		return "", false
	}
	if n.kind() != '"' {
		n.reject("a string")
		return "", false
	}
	return unquote(n.raw()), true
}

// label reads a string of at most size bytes that people are going to see:
// without the control characters in it.
func (n *node) label(size int) string {
	s, _ := n.visible(size)
	return s
}

// id reads a label that may not be empty.
func (n *node) id() string {
	s, ok := n.visible(MaxID)
	if ok && s == "" {
		n.reject("an id")
	}
	return s
}

func (n *node) visible(size int) (string, bool) {
	s, ok := n.str()
	if len(s) > size {
		n.reject(fmt.Sprintf("at most %d bytes", size))
		return "", false
	}
	return strings.Map(func(r rune) rune {
		if isUnprintable(r) {
			return -1
		}
		return r
	}, s), ok
}

// word reads one of a few words, without regard to case.
func word[T any](n *node, want string, words map[string]T) T {
	var zero T
	if n == nil {
		return zero
	}
	if n.kind() == '"' {
		if v, ok := words[strings.ToLower(unquote(n.raw()))]; ok {
			return v
		}
	}
	n.reject(want)
	return zero
}

// boolean reads true or false, or returns otherwise if n is nil.
func (n *node) boolean(otherwise bool) bool {
	switch {
	case n == nil:
		return otherwise
	case n.kind() == 't':
		return true
	case n.kind() != 'f':
		n.reject("true or false")
	}
	return false
}

// booleanOrText is boolean for a field that may also be a string.
func (n *node) booleanOrText(otherwise bool) bool {
	if n == nil || n.kind() != '"' {
		return n.boolean(otherwise)
	}
	return word(n, "true or false, or one of them as a string", map[string]bool{"true": true, "false": false})
}

// numeral returns the text of a number, which may be in a string: the vendor's
// service writes both. It returns false for everything else.
func (n *node) numeral() (string, bool) {
	if n.kind() != '"' {
		return string(n.raw()), n.kind() == '-' || isDigit(n.kind())
	}
	text := unquote(n.raw())
	bounded := text != "" && (text[0] == '-' || isDigit(text[0])) && isDigit(text[len(text)-1])
	return text, bounded && json.Valid([]byte(text))
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// whole reads a whole number from low to high.
func (n *node) whole(low, high uint64) (uint64, bool) {
	if n == nil {
		return 0, false
	}
	if text, ok := n.numeral(); ok {
		if v, err := strconv.ParseUint(text, 10, 64); err == nil && low <= v && v <= high {
			return v, true
		}
	}
	n.reject(fmt.Sprintf("a whole number from %d to %d", low, high))
	return 0, false
}

// port reads a port number from low on.
func (n *node) port(low uint64) (uint16, bool) {
	v, ok := n.whole(low, math.MaxUint16)
	return uint16(v), ok
}

// number reads a number of at least low that a float64 can hold.
func (n *node) number(low float64) float64 {
	if n == nil {
		return 0
	}
	want := "a number"
	if low == 0 {
		want = "a number that is not negative"
	}
	if text, ok := n.numeral(); ok {
		if v, err := strconv.ParseFloat(text, 64); err == nil && v >= low {
			return v
		}
	}
	n.reject(want)
	return 0
}

// duration reads a whole number of units.
func (n *node) duration(unit time.Duration) time.Duration {
	v, _ := n.whole(0, math.MaxUint32)
	return time.Duration(v) * unit
}
