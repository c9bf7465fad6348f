package edge

import (
	"crypto/tls"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestNewRefusesOptionsThatMakeNoEdge(t *testing.T) {
	certificate, err := SelfSigned([]string{"edge.test"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	good := func() Options {
		return Options{Certificate: certificate, Allow: []string{"*:443"}, Metrics: prometheus.NewRegistry()}
	}
	if _, err := New(good()); err != nil {
		t.Fatalf("New of good options: %v", err)
	}
	taken := good()
	if _, err := New(taken); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*Options)
		want   error
	}{
		{"no certificate", func(o *Options) { o.Certificate = tls.Certificate{} }, errNoCertificate},
		{"nothing allowed", func(o *Options) { o.Allow = nil }, errNothingAllowed},
		{"negative time", func(o *Options) { o.DialTimeout = -1 }, errNegative},
		{"negative count", func(o *Options) { o.MaxConnections = -1 }, errNegative},
		{"wrong rule", func(o *Options) { o.Allow = []string{"x"} }, &RuleError{Rule: "x", Column: 2, Want: `":" and ports`}},
		{"metrics taken", func(o *Options) { o.Metrics = taken.Metrics }, prometheus.AlreadyRegisteredError{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := good()
			test.change(&o)
			e, err := New(o)
			if e != nil || err == nil {
				t.Fatalf("New = %v, %v", e, err)
			}
			if rule, ok := errors.AsType[*RuleError](err); ok {
				if want := test.want.(*RuleError); *rule != *want {
					t.Errorf("New = %+v, want %+v", rule, want)
				}
			} else if _, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); !ok && !errors.Is(err, test.want) {
				t.Errorf("New = %v, want %v", err, test.want)
			}
		})
	}
}
