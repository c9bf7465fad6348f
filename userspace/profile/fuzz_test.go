package profile

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode"
)

func FuzzParse(f *testing.F) {
	text := sample(f)
	f.Add([]byte(text))
	f.Add([]byte(valid))
	f.Add([]byte("\xef\xbb\xbf" + strings.Replace(valid, `"start": 80`, `"start": "80"`, 1)))
	f.Add([]byte(strings.Replace(valid, `"2001:db8::/32"`, `"::ffff:0:0/95", "1.2.3.4/33", {"start": "::", "end": 1}`, 1)))
	f.Add([]byte(strings.Replace(valid, `"acquireIfUnresolved": false`, `"quic": "reject"`, 1)))
	f.Add([]byte(strings.Replace(valid, `www\\.`, `(?i)[^]a-[b]]{2,}\\`, 1)))
	f.Add([]byte(`{"policy": {"": {"\u0000": [[[{"a":1,"a":2}]]]}, "channels": null, "rules": null}}`))
	f.Add([]byte(`{"policy": {"channels": [], "rules": [{"order": 1e5}]}, "apsContextData": "\ud800"}`))

	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(bytes.NewReader(text))
		if (p == nil) == (err == nil) {
			t.Fatalf("%v, %v", p, err)
		}
		if err == nil {
			checkProfile(t, p, len(text))
			return
		}
		invalid, ok := errors.AsType[*InvalidError](err)
		if !ok {
			t.Fatalf("%T: %v", err, err)
		}
		checkProblems(t, invalid, len(text))
	})
}

func checkProblems(t *testing.T, invalid *InvalidError, size int) {
	if n := len(invalid.Problems); n == 0 || n > maxReports || invalid.Omitted < 0 {
		t.Fatalf("%d problems and %d more", n, invalid.Omitted)
	}
	last := 0
	for _, p := range append(invalid.Problems, Problem{Line: 1, Column: 1, Offset: size}) {
		text := p.String()
		if p.Line < 1 || p.Column < 1 || p.Offset < last || p.Offset > size || len(text) > (maxName+2)*maxDepth+1000 {
			t.Errorf("%+v after offset %d of %d", p, last, size)
		}
		if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q is not printable", text)
		}
		last = p.Offset
	}
}

func checkProfile(t *testing.T, p *Profile, size int) {
	if len(p.Warnings) > maxReports+1 || len(p.Unknown) > maxUnknown {
		t.Errorf("%d warnings, %d unknown fields", len(p.Warnings), len(p.Unknown))
	}
	kept := 0
	for _, raw := range p.Unknown {
		kept += len(raw)
	}
	if kept > size {
		t.Errorf("%d bytes of unknown fields in %d", kept, size)
	}
	channels := make(map[string]bool)
	for _, c := range p.Policy.Channels {
		channels[c.ID] = true
	}
	for i, r := range p.Policy.Rules {
		if r.ID == "" || len(r.ID) > MaxID || r.Action == 0 || r.Hardening == 0 || r.Protocols == 0 || len(r.Ports) == 0 ||
			r.Channel != "" && !channels[r.Channel] || i > 0 && r.Order < p.Policy.Rules[i-1].Order {
			t.Errorf("rule %+v", r)
		}
		for _, a := range r.Addrs {
			if !a.First.IsValid() || !a.Contains(a.First) || !a.Contains(a.Last) || a.First.Is4In6() || a.Last.Is4In6() {
				t.Errorf("range %v", a)
			}
		}
	}
}
