package dns

import (
	"fmt"
	"net/netip"
	"regexp"
	"testing"
	"time"
)

func TestOutcomesHaveNames(t *testing.T) {
	seen := make(map[string]bool)
	for o := range Outcomes() {
		name := o.String()
		if seen[name] || !regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`).MatchString(name) {
			t.Errorf("outcome %d is %q", o, name)
		}
		seen[name] = true
	}
	if len(seen) != int(outcomes) || outcomes.String() != fmt.Sprintf("outcome(%d)", outcomes) {
		t.Errorf("%d names, and %v", len(seen), outcomes)
	}
	for w := range ways {
		text, err := w.MarshalText()
		if err != nil || seen["way "+string(text)] || string(text) != w.String() {
			t.Errorf("way %d is %q", w, text)
		}
		seen["way "+string(text)] = true
	}
	if ways.String() != "way(4)" {
		t.Errorf("way beyond is %v", ways)
	}
	var s Server
	status := s.Status()
	if len(status.Outcomes) != int(outcomes) || len(status.Latency) != int(ways) {
		t.Errorf("status has %d outcomes, %d ways", len(status.Outcomes), len(status.Latency))
	}
}

func TestLatencyIsCountedByBounds(t *testing.T) {
	var h histogram
	for range 98 {
		h.add(time.Millisecond) // of the bucket of its bound
	}
	h.add(time.Second)
	h.add(time.Minute)
	l := h.latency()
	if l.Count != 100 || l.Sum != 98*time.Millisecond+time.Second+time.Minute || len(l.Buckets) != bounds {
		t.Errorf("%+v", l)
	}
	for _, bucket := range l.Buckets {
		want := uint64(0)
		switch {
		case bucket.Bound >= time.Second:
			want = 99
		case bucket.Bound >= time.Millisecond:
			want = 98
		}
		if bucket.Count != want {
			t.Errorf("up to %v are %d, want %d", bucket.Bound, bucket.Count, want)
		}
	}
	for part, want := range map[float64]time.Duration{0.5: time.Millisecond, 0.99: time.Second, 1: 10 * time.Second} {
		if got := l.Quantile(part); got != want {
			t.Errorf("%v are below %v, want %v", part, got, want)
		}
	}
	if got := (Latency{}).Quantile(0.5); got != 0 {
		t.Errorf("of none %v", got)
	}
}

func TestServersThatAreRememberedAreBounded(t *testing.T) {
	var s servers
	for i := range 3 * serversKnown {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 53)
		s.asked(path{WayDirect, at}, time.Millisecond, nil)
	}
	if n := len(s.status()); n != serversKnown {
		t.Errorf("%d servers", n)
	}
}
