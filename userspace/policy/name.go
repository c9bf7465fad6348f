package policy

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

// The limits of a name in octets, as it stands in a message (RFC 1035 §2.3.4).
const (
	maxNameOctets  = 255
	maxLabelOctets = 63
)

// CanonicalName returns the one form of a host name that patterns are compared
// with and that tables of names are keyed by, or false if name is none.
//
// Name is in the presentation format of RFC 1035 §5.1, absolute with or without
// its final dot. Its canonical form has no final dot and ASCII letters in lower
// case (RFC 4343). Octets that are no visible ASCII character, dots within a
// label and backslashes are written \DDD, with three decimal digits; all others
// stand for themselves, the underscore too. So labels are what lies between
// dots, and no name has two forms. Text beyond ASCII is taken as the octets that
// it has in UTF-8: what an application asks for an internationalized name is
// its A-label, and that is ASCII.
//
// The root, empty labels, labels of more than 63 octets, names of more than 255
// and malformed escapes are no names.
func CanonicalName(name string) (string, bool) {
	if plainName(name) {
		return name, true
	}
	var out strings.Builder
	out.Grow(len(name))
	octets, label := 1, 0 // in the message: the root's length octet, and the label so far
	for i := 0; i < len(name); {
		if name[i] == '.' {
			if label == 0 {
				return "", false
			}
			if octets, label = octets+label+1, 0; i+1 < len(name) {
				out.WriteByte('.')
			}
			i++
			continue
		}
		octet, size := unescape(name[i:])
		if label++; size == 0 || label > maxLabelOctets {
			return "", false
		}
		writeOctet(&out, octet)
		i += size
	}
	if label > 0 {
		octets += label + 1
	}
	return out.String(), 1 < octets && octets <= maxNameOctets
}

// plainName reports whether name is in canonical form and has no escapes, as
// nearly every name.
func plainName(name string) bool {
	label := 0
	for i := range len(name) {
		switch c := name[i]; {
		case c == '.':
			if label == 0 {
				return false
			}
			label = 0
			continue
		case c <= ' ' || c > '~' || c == '\\' || 'A' <= c && c <= 'Z':
			return false
		}
		if label++; label > maxLabelOctets {
			return false
		}
	}
	return label > 0 && len(name)+2 <= maxNameOctets
}

// unescape returns the octet at the start of text, and of how many characters
// it is made: none if the escape is malformed.
func unescape(text string) (octet byte, size int) {
	switch {
	case text[0] != '\\':
		return text[0], 1
	case len(text) > 1 && (text[1] < '0' || text[1] > '9'):
		return text[1], 2
	case len(text) < 4:
		return 0, 0
	}
	value := 0
	for _, c := range []byte(text[1:4]) {
		if c < '0' || c > '9' {
			return 0, 0
		}
		value = 10*value + int(c-'0')
	}
	if value > 255 {
		return 0, 0
	}
	return byte(value), 4
}

func writeOctet(out *strings.Builder, octet byte) {
	switch {
	case 'A' <= octet && octet <= 'Z':
		out.WriteByte(octet + 'a' - 'A')
	case octet <= ' ' || octet > '~' || octet == '.' || octet == '\\':
		fmt.Fprintf(out, `\%03d`, octet)
	default:
		out.WriteByte(octet)
	}
}

// NamePattern is a regular expression over whole host names in their canonical
// form, see [CanonicalName], without regard to case. The zero value matches no
// name.
//
// Most patterns are an exact name or all names below a suffix. Those are not
// kept as regular expressions, so a hundred thousand of them are cheap.
type NamePattern struct {
	Source string // as the profile wrote it

	shapes       []shape        // what the pattern comes to, if that is plain
	regexp       *regexp.Regexp // anchored at both ends, if it is not
	needles      []needle       // one of which a name has that regexp matches, if any are known
	instructions int            // of regexp
}

// ParseNamePattern returns the pattern of a regular expression in RE2's syntax.
// The error is a *[syntax.Error].
func ParseNamePattern(source string) (NamePattern, error) {
	parsed, err := syntax.Parse(source, syntax.Perl|syntax.FoldCase)
	if err == nil && strings.Contains(source, `\Q`) {
		// One without \E would quote what comes after the source, too.
		_, err = syntax.Parse(anchored(source), syntax.Perl)
	}
	if err != nil {
		return NamePattern{}, err
	}
	n := NamePattern{Source: source}
	if shapes, ok := shapesOf(parsed); ok {
		n.shapes = shapes
		return n, nil
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return NamePattern{}, err
	}
	n.instructions, n.needles = len(program.Inst), needlesOf(parsed)
	n.regexp, err = regexp.Compile(anchored(source))
	return n, err
}

// anchored returns a regular expression for the whole of what source matches.
func anchored(source string) string { return "(?i)^(?:" + source + ")$" }

// Instructions returns how large the regular expression is as a program, which
// bounds its memory and its time per character. It is zero for a pattern that
// is matched without.
func (n NamePattern) Instructions() int { return n.instructions }

// Match reports whether the pattern matches a name, in any form. What is no
// name is matched by nothing.
func (n NamePattern) Match(name string) bool {
	name, ok := CanonicalName(name)
	return ok && n.matches(name)
}

// matches is Match for a name in canonical form.
func (n NamePattern) matches(name string) bool {
	for _, s := range n.shapes {
		if s.matches(name) {
			return true
		}
	}
	return n.regexp != nil && n.regexp.MatchString(name)
}
