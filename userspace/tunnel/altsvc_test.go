package tunnel

import (
	"testing"
	"time"
)

func TestAlternativesAreRead(t *testing.T) {
	const day = 24 * time.Hour
	for _, test := range []struct {
		fields []string
		want   alternative
		ok     bool
	}{
		{[]string{`h3=":443"`}, alternative{"443", false, day}, true},
		{[]string{`h3=":443", h2=":443"`}, alternative{"443", true, day}, true},
		{[]string{`h3=":443"`, `h2=":443"`}, alternative{"443", true, day}, true},
		{[]string{`h2=":443", h3=":443"`}, alternative{"443", false, day}, true},
		{[]string{`h2=":443", h3=":443", h2=":444"`}, alternative{"443", false, day}, true},
		{[]string{`h3=":1", h3=":2"`}, alternative{"1", false, day}, true},
		{[]string{`h3="edge.example:443"`}, alternative{"443", false, day}, true},
		{[]string{`h3="EDGE.example:443"`}, alternative{"443", false, day}, true},
		{[]string{`h3=":443"; ma=60; persist=1`}, alternative{"443", false, time.Minute}, true},
		{[]string{`h3=":443";ma="60"`}, alternative{"443", false, time.Minute}, true},
		{[]string{`h3=":443";ma=2147483647`}, alternative{"443", false, 30 * day}, true},
		{[]string{`h3=":443";ma=soon`}, alternative{"443", false, day}, true},
		{[]string{`h3-29=":443"; v="46,43", h3=":8443"`}, alternative{"8443", false, day}, true},
		{[]string{`w=":80", , h3=":443",`}, alternative{"443", false, day}, true},
		// It is announced elsewhere, or not any more.
		{[]string{`h3="other.example:443"`}, alternative{}, true},
		{[]string{`h3="other.example:443", h3=":443"`}, alternative{"443", false, day}, true},
		{[]string{`h2=":443"`}, alternative{}, true},
		{[]string{`clear`}, alternative{}, true},
		{[]string{`h3=":443", clear`}, alternative{}, true},
		// Nothing is said.
		{nil, alternative{}, false},
		{[]string{""}, alternative{}, false},
		{[]string{"nonsense"}, alternative{}, false},
		{[]string{`h3=":0"`}, alternative{}, true},
		{[]string{`h3=":65536"`}, alternative{}, true},
		{[]string{`h3="443"`}, alternative{}, true},
		{[]string{`h3=":44\3"`}, alternative{}, true},
		{[]string{`h3=":443`}, alternative{}, true},
	} {
		if got, ok := parseAlternatives(test.fields, "edge.example"); got != test.want || ok != test.ok {
			t.Errorf("%q: %+v, %v", test.fields, got, ok)
		}
	}
}

func FuzzAlternatives(f *testing.F) {
	f.Add(`h3=":443"; ma=60, h2=":443"`)
	f.Add(`clear`)
	f.Add(`h3="[::1]:443;,";x="`)
	f.Fuzz(func(t *testing.T, field string) {
		got, ok := parseAlternatives([]string{field}, "edge.example")
		if !ok && got.port != "" || got.port == "" && got.preferred {
			t.Fatalf("%+v, %v", got, ok)
		}
		if got.maxAge < 0 || got.maxAge > longestMaxAge || len(got.port) > len(field) {
			t.Fatalf("%+v", got)
		}
	})
}
