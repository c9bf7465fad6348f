package policy

import (
	"regexp/syntax"
	"slices"
	"strings"
)

// shape is a plain set of names.
type shape struct {
	reach  reach
	suffix string // canonical labels without a dot at either end; empty is the root
}

// reach says which names of a suffix a shape holds.
type reach uint8

const (
	reachExact reach = iota + 1 // the suffix itself
	reachLabel                  // names of one more label
	reachBelow                  // all names below it
)

func (s shape) matches(name string) bool {
	if s.reach == reachExact {
		return name == s.suffix
	}
	rest, ok := strings.CutSuffix(name, s.suffix)
	if !ok {
		return false
	}
	if s.suffix != "" {
		// A name has no empty label: something is before a dot.
		if rest, ok = strings.CutSuffix(rest, "."); !ok {
			return false
		}
	}
	return s.reach == reachBelow || !strings.Contains(rest, ".")
}

// maxShapes bounds how many shapes one pattern is taken apart into.
const maxShapes = 16

// wild is how a piece of a pattern begins.
type wild uint8

const (
	wildNone  wild = iota
	wildLabel      // [^.]+: at least one character, no dot
	wildAny        // .*
	wildSome       // .+
)

// piece is one way to match a part of a pattern: an optional start of the text,
// a wild part, literal text, and an optional end of the text.
type piece struct {
	begin bool
	wild  wild
	text  string
	end   bool
}

// shapesOf takes a pattern apart into shapes that together hold just the names
// that it matches, or returns false.
func shapesOf(re *syntax.Regexp) ([]shape, bool) {
	pieces, ok := piecesOf(re)
	if !ok {
		return nil, false
	}
	var shapes []shape
	for _, p := range pieces {
		s, ok := p.shape()
		if !ok {
			return nil, false
		}
		if !slices.Contains(shapes, s) {
			shapes = append(shapes, s)
		}
	}
	return shapes, len(shapes) > 0
}

// shape returns the names that a whole pattern of one piece matches.
func (p piece) shape() (shape, bool) {
	suffix := p.text
	if p.wild == wildNone {
		return shape{reachExact, suffix}, plainName(suffix)
	}
	if suffix != "" {
		var border bool
		if suffix, border = strings.CutPrefix(suffix, "."); !border || !plainName(suffix) {
			return shape{}, false
		}
	}
	if p.wild == wildLabel {
		return shape{reachLabel, suffix}, true
	}
	return shape{reachBelow, suffix}, true
}

// piecesOf returns all ways to match re, or false if it is not plain.
func piecesOf(re *syntax.Regexp) ([]piece, bool) {
	switch re.Op {
	case syntax.OpEmptyMatch:
		return []piece{{}}, true
	case syntax.OpBeginText:
		return []piece{{begin: true}}, true
	case syntax.OpEndText:
		return []piece{{end: true}}, true
	case syntax.OpLiteral:
		text, ok := literal(re)
		return []piece{{text: text}}, ok
	case syntax.OpCharClass:
		return characters(re)
	case syntax.OpStar, syntax.OpPlus:
		p, ok := repeated(re)
		return []piece{p}, ok
	case syntax.OpCapture:
		return piecesOf(re.Sub[0])
	case syntax.OpQuest:
		pieces, ok := piecesOf(re.Sub[0])
		return append(pieces, piece{}), ok && len(pieces) < maxShapes
	case syntax.OpAlternate:
		return alternatives(re.Sub)
	case syntax.OpConcat:
		return sequence(re.Sub)
	}
	return nil, false
}

// literal returns the text of a literal in lower case, or false if no canonical
// name can have it.
func literal(re *syntax.Regexp) (string, bool) {
	text := make([]byte, 0, len(re.Rune))
	for _, r := range re.Rune {
		upper := 'A' <= r && r <= 'Z'
		if r > '~' || upper && re.Flags&syntax.FoldCase == 0 {
			return "", false
		}
		if upper {
			r += 'a' - 'A'
		}
		text = append(text, byte(r))
	}
	return string(text), true
}

// characters returns a piece for each character of a class that canonical names
// can have.
func characters(re *syntax.Regexp) ([]piece, bool) {
	var all []piece
	for c := '!'; c <= '~'; c++ {
		if 'A' <= c && c <= 'Z' || !inClass(re.Rune, c) {
			continue
		}
		if len(all) == maxShapes {
			return nil, false
		}
		all = append(all, piece{text: string(c)})
	}
	return all, len(all) > 0
}

// inClass reports whether one of the ranges holds c.
func inClass(ranges []rune, c rune) bool {
	for pair := range slices.Chunk(ranges, 2) {
		if pair[0] <= c && c <= pair[1] {
			return true
		}
	}
	return false
}

// repeated returns the piece of any text, or of a label.
func repeated(re *syntax.Regexp) (piece, bool) {
	switch sub := re.Sub[0]; {
	case sub.Op != syntax.OpAnyChar && sub.Op != syntax.OpAnyCharNotNL && !notDot(sub):
		return piece{}, false
	case re.Op == syntax.OpStar && !notDot(sub):
		return piece{wild: wildAny}, true
	case re.Op == syntax.OpStar:
		return piece{}, false
	case notDot(sub):
		return piece{wild: wildLabel}, true
	}
	return piece{wild: wildSome}, true
}

// notDot reports whether re is the class of all characters but the dot.
func notDot(re *syntax.Regexp) bool {
	return re.Op == syntax.OpCharClass &&
		slices.Equal(re.Rune, []rune{0, '.' - 1, '.' + 1, 0x10ffff})
}

func alternatives(subs []*syntax.Regexp) ([]piece, bool) {
	var all []piece
	for _, sub := range subs {
		pieces, ok := piecesOf(sub)
		if !ok || len(all)+len(pieces) > maxShapes {
			return nil, false
		}
		all = append(all, pieces...)
	}
	return all, true
}

func sequence(subs []*syntax.Regexp) ([]piece, bool) {
	all := []piece{{}}
	for _, sub := range subs {
		pieces, ok := piecesOf(sub)
		if !ok || len(all)*len(pieces) > maxShapes {
			return nil, false
		}
		var joined []piece
		for _, a := range all {
			for _, b := range pieces {
				both, ok := a.then(b)
				if !ok {
					return nil, false
				}
				joined = append(joined, both)
			}
		}
		all = joined
	}
	return all, true
}

// then returns the piece that matches p and then next.
func (p piece) then(next piece) (piece, bool) {
	switch {
	case next.begin && (p.wild != wildNone || p.text != ""),
		p.end && (next.wild != wildNone || next.text != ""),
		next.wild != wildNone && (p.wild != wildNone || p.text != ""):
		return piece{}, false
	}
	return piece{
		begin: p.begin || next.begin,
		wild:  max(p.wild, next.wild),
		text:  p.text + next.text,
		end:   p.end || next.end,
	}, true
}
