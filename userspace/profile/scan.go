package profile

import (
	"encoding/json"
	"strings"
)

// The functions of this file walk over text that is known to be valid JSON, so
// none of them checks for its end inside a value.

// skipSpace returns the offset of the first byte from i on that is not space.
func skipSpace(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\n' || text[i] == '\t' || text[i] == '\r') {
		i++
	}
	return i
}

// skipComma returns the offset of what follows a value that ends at i: the
// next element or field, or the closing bracket.
func skipComma(text []byte, i int) int {
	if i = skipSpace(text, i); text[i] == ',' {
		return skipSpace(text, i+1)
	}
	return i
}

// stringEnd returns the offset after the string that starts at i.
func stringEnd(text []byte, i int) int {
	for i++; text[i] != '"'; i++ {
		if text[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// valueEnd returns the offset after the value that starts at i.
func valueEnd(text []byte, i int) int {
	switch text[i] {
	case '"':
		return stringEnd(text, i)
	case '{', '[':
		return bracketEnd(text, i)
	}
	for ; i < len(text); i++ {
		switch text[i] {
		case ',', ']', '}', ' ', '\n', '\t', '\r':
			return i
		}
	}
	return i
}

// bracketEnd returns the offset after the object or list that starts at i.
func bracketEnd(text []byte, i int) int {
	for depth := 0; ; {
		switch text[i] {
		case '"':
			i = stringEnd(text, i)
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		i++
		if depth == 0 {
			return i
		}
	}
}

// unquote returns the text of a JSON string.
func unquote(raw []byte) string {
	plain := string(raw[1 : len(raw)-1])
	if strings.IndexByte(plain, '\\') < 0 {
		return plain
	}
	var text string
	_ = json.Unmarshal(raw, &text) // valid JSON, so there is no error
	return text
}
