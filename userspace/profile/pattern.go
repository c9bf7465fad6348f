package profile

import (
	"fmt"
	"strings"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

const (
	maxPattern      = 1024    // bytes; a host name has at most 253
	maxPatterns     = 250_000 // in a profile; the vendor documents 8,000 destinations
	maxInstructions = 200_000 // of all patterns that need a program: a short one can be huge, as in a{1000}
)

// patternBudget is what the name patterns of a document have used so far.
type patternBudget struct {
	count        int
	instructions int
}

// names reads a rule's list of regular expressions over whole host names.
func names(list *node) []policy.NamePattern {
	var patterns []policy.NamePattern
	for item := range list.items() {
		source, ok := item.str()
		switch {
		case !ok:
		case source == "":
			item.warn("an empty regular expression matches no name")
		default:
			if pattern, ok := item.pattern(source); ok {
				patterns = append(patterns, pattern)
			}
		}
	}
	return patterns
}

// pattern compiles a regular expression, or reports why it cannot.
func (n *node) pattern(source string) (policy.NamePattern, bool) {
	var none policy.NamePattern
	if len(source) > maxPattern || strings.ContainsFunc(source, isUnprintable) {
		n.reject(fmt.Sprintf("a regular expression of at most %d printable bytes", maxPattern))
		return none, false
	}
	if name, construct := inexpressible(source); name != "" {
		n.reject(fmt.Sprintf("a regular expression that RE2 can express, without the %s %q", name, construct))
		return none, false
	}
	budget := &n.doc.patterns
	if budget.spent() {
		n.reject(tooManyPatterns())
		return none, false
	}
	pattern, err := policy.ParseNamePattern(source)
	if err != nil {
		n.reject("a regular expression: " + reason(err))
		return none, false
	}
	budget.count++
	budget.instructions += pattern.Instructions()
	if budget.spent() {
		n.reject(tooManyPatterns())
		return none, false
	}
	return pattern, true
}

// spent reports whether the budget is exceeded.
func (b *patternBudget) spent() bool {
	return b.count > maxPatterns || b.instructions > maxInstructions
}

func tooManyPatterns() string {
	return fmt.Sprintf("at most %d regular expressions, and %d instructions in all that are neither a name nor a suffix",
		maxPatterns, maxInstructions)
}

func reason(err error) string {
	return strings.TrimPrefix(err.Error(), "error parsing regexp: ")
}

// inexpressible returns the first construct of .NET's regular expressions that
// RE2 refuses or, worse, reads as something else.
func inexpressible(source string) (name, construct string) {
	class := -1 // offset of the bracket that opened a character class
	for i := 0; i < len(source); i++ {
		rest := source[i:]
		switch {
		case rest[0] == '\\':
			if class < 0 && len(rest) > 1 && (rest[1] == 'k' || '1' <= rest[1] && rest[1] <= '9') {
				return "back-reference", rest[:2]
			}
			i++
		case class >= 0:
			if strings.HasPrefix(rest, "-[") && i > class+1 {
				return "character class subtraction", rest[:2]
			}
			if rest[0] == ']' && i > class+1 {
				class = -1
			}
		case rest[0] == '[':
			class = i
			if strings.HasPrefix(rest, "[^") {
				class, i = i+1, i+1
			}
		case strings.HasPrefix(rest, "(?"):
			if name, construct = group(rest); name != "" {
				return name, construct
			}
		}
	}
	return "", ""
}

// group names a group construct that RE2 does not have.
func group(rest string) (name, construct string) {
	for _, g := range [...]struct{ construct, name string }{
		{"(?=", "look-ahead"},
		{"(?!", "negative look-ahead"},
		{"(?<=", "look-behind"},
		{"(?<!", "negative look-behind"},
		{"(?>", "atomic group"},
		{"(?(", "conditional"},
		{"(?#", "comment"},
		{"(?'", "quoted group name"},
	} {
		if strings.HasPrefix(rest, g.construct) {
			return g.name, g.construct
		}
	}
	return "", ""
}
