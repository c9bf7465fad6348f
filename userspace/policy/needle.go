package policy

import (
	"regexp/syntax"
	"slices"
	"strings"
)

// needle is something that every name has that a pattern matches. The zero value
// is nothing.
type needle struct {
	text   string // canonical labels without a dot at either end
	suffix bool   // text ends the name, with a label before it; else it is one label, anywhere
}

// needlesOf returns needles of which every name has one that re matches, or none
// if it does not see any.
func needlesOf(re *syntax.Regexp) []needle {
	for re.Op == syntax.OpCapture {
		re = re.Sub[0]
	}
	if re.Op != syntax.OpAlternate {
		if n := needleOf(re); n.text != "" {
			return []needle{n}
		}
		return nil
	}
	var all []needle
	for _, sub := range re.Sub {
		needles := needlesOf(sub)
		if len(needles) == 0 || len(all)+len(needles) > maxShapes {
			return nil
		}
		all = append(all, needles...)
	}
	slices.SortFunc(all, func(a, b needle) int { return strings.Compare(a.text, b.text) })
	return slices.Compact(all)
}

// needleOf returns the suffix that re ends with, or else the longest label that
// it has.
func needleOf(re *syntax.Regexp) needle {
	var best needle
	texts := textsOf(re)
	last := len(texts) - 1
	if _, suffix, ok := strings.Cut(texts[last], "."); ok && plainName(suffix) {
		return needle{suffix, true}
	}
	for i, text := range texts {
		labels := strings.Split(text, ".")
		for at, label := range labels {
			whole := (at > 0 || i == 0) && (at < len(labels)-1 || i == last)
			if whole && len(label) > len(best.text) && plainName(label) {
				best.text = label
			}
		}
	}
	return best
}

// textsOf returns the literal texts of re in order, with whatever matches
// something else between them. The first text begins the name, and the last
// one ends it; they may be empty.
func textsOf(re *syntax.Regexp) []string {
	texts := []string{""}
	var walk func(re *syntax.Regexp)
	walk = func(re *syntax.Regexp) {
		switch re.Op {
		case syntax.OpCapture:
			walk(re.Sub[0])
		case syntax.OpConcat:
			for _, sub := range re.Sub {
				walk(sub)
			}
		case syntax.OpEmptyMatch, syntax.OpBeginText, syntax.OpEndText:
		case syntax.OpLiteral:
			if text, ok := literal(re); ok {
				texts[len(texts)-1] += text
				return
			}
			fallthrough
		default:
			texts = append(texts, "")
		}
	}
	walk(re)
	return texts
}
