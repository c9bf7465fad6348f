package tunnel

import (
	"iter"
	"net"
	"strconv"
	"strings"
	"time"
)

const (
	// defaultMaxAge is how long an alternative is fresh that does not say
	// (RFC 7838 section 3.1).
	defaultMaxAge = 24 * time.Hour

	// longestMaxAge bounds what an edge can say.
	longestMaxAge = 30 * 24 * time.Hour
)

// alternative is what an edge announces of HTTP/3 (RFC 7838).
type alternative struct {
	port      string // UDP, of the edge's own host; empty if there is none
	preferred bool   // to HTTP/2, which is announced too
	maxAge    time.Duration
}

// parseAlternatives reads the Alt-Svc fields of an answer. The first of a protocol
// counts, since their order is the edge's preference (RFC 7838 section 3). One
// on another host is passed over: edges are allowed by host. ok is false where
// nothing is to be learnt.
func parseAlternatives(fields []string, host string) (found alternative, ok bool) {
	seenHTTP2 := false
	for entry := range entries(strings.Join(fields, ","), ',') {
		if entry == "clear" {
			return alternative{}, true
		}
		var parameters []string
		for parameter := range entries(entry, ';') {
			parameters = append(parameters, parameter)
		}
		if len(parameters) == 0 {
			continue
		}
		protocol, authority, isPair := strings.Cut(parameters[0], "=")
		port := localPort(unquote(authority), host)
		switch {
		case !isPair:
		case protocol == "h2" && !seenHTTP2:
			found.preferred = found.port != ""
			seenHTTP2 = true
		case protocol == "h3" && port != "" && found.port == "":
			found.port = port
			found.maxAge = maxAge(parameters[1:])
		}
		ok = ok || isPair
	}
	return found, ok
}

// entries yields the non-empty parts of a list, without the white space around
// them. What is quoted holds no separator.
func entries(list string, separator byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		start, quoted := 0, false
		for i := range len(list) {
			if list[i] == '"' {
				quoted = !quoted
			}
			if list[i] != separator || quoted {
				continue
			}
			if part := strings.TrimSpace(list[start:i]); part != "" && !yield(part) {
				return
			}
			start = i + 1
		}
		if part := strings.TrimSpace(list[start:]); part != "" {
			yield(part)
		}
	}
}

// unquote takes the quotes off a quoted string. Authorities need no escapes, so
// that one with any matches nothing.
func unquote(s string) string {
	s = strings.TrimSpace(s)
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return s
	}
	return s[1 : len(s)-1]
}

// localPort returns the port of an alternative's authority if its host is the
// edge's own, else nothing.
func localPort(authority, host string) string {
	other, port, err := net.SplitHostPort(authority)
	if err != nil || other != "" && !strings.EqualFold(other, host) {
		return ""
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return ""
	}
	return port
}

// maxAge is how long an alternative with such parameters is fresh.
func maxAge(parameters []string) time.Duration {
	for _, parameter := range parameters {
		text, ok := strings.CutPrefix(parameter, "ma=")
		if !ok {
			continue
		}
		if seconds, err := strconv.ParseUint(unquote(text), 10, 31); err == nil {
			return min(time.Duration(seconds)*time.Second, longestMaxAge)
		}
	}
	return defaultMaxAge
}
