package e2e

import (
	"fmt"
	"slices"
	"testing"
)

// serverProfile tunnels the host's own resolver, too.
func serverProfile(t testing.TB, hardening string) string {
	t.Helper()
	const rule = `,{"id":"server","channelId":"` + sampleChannel + `","order":20,"action":"Tunnel","hardening":"%s",` +
		`"matchingCriteria":{"address":{"ips":[{"start":3221225986,"end":3221225986}],"fqdns":[]},` + // 192.0.2.2
		`"ports":[{"start":53,"end":53}],"protocol":"Udp"}}],"privateDnsRules":[`
	return namesProfile(t, `],"privateDnsRules":[`, fmt.Sprintf(rule, hardening))
}

func TestServerThatARuleCoversIsAskedThroughItsChannel(t *testing.T) {
	for _, test := range []struct {
		hardening, without string
		outcome            string
	}{
		{"Bypass", openAddr, "forwarded"},
		{"Block", "server misbehaving", "blocked"},
	} {
		t.Run(test.hardening, func(t *testing.T) {
			s, r := namesSite(t)
			s.setProfile(t, serverProfile(t, test.hardening))
			s.start(t)
			s.awaitChannel(t, "down")
			s.wantNames(t, openName+".", test.without)
			if queries := s.status(t).DNS.Queries; queries[test.outcome] == 0 || queries["tunneled"] != 0 {
				t.Errorf("queries are %v, want some %s and none tunneled", queries, test.outcome)
			}
			s.startEdge(t, 443, resolverAddr)
			s.awaitChannel(t, "up")
			s.wantNames(t, openName+".", openAddr, "absent.open.example.", "no such host", buildName+".", firstSynthetic)
			if queries := s.status(t).DNS.Queries; queries["tunneled"] == 0 {
				t.Errorf("queries are %v, want some tunneled", queries)
			}
			if n := r.count(openName + " A"); n == 0 {
				t.Error("resolver was not asked")
			}
		})
	}
}

func TestQueriesOfADeviceBoundSocketAreAnswered(t *testing.T) {
	s, r := namesSite(t)
	s.startNamesEdge(t)
	s.start(t)
	s.awaitChannel(t, "up")
	got := s.namesFrom(t, "up0 "+resolverAddr, buildName+".", firstSynthetic, openName+".", "absent.open.example.")
	if want := []string{firstSynthetic, buildName + ".", openAddr, "no such host"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if n := r.count(openName + " A"); n != 1 {
		t.Errorf("resolver was asked %d times for a bypassed name, want once", n)
	}
	if h := s.hostname(t, buildName); !h.Acquired || h.Queries == 0 {
		t.Errorf("hostname is %+v", h)
	}
}

func TestServerAtASyntheticAddressIsThatOfTheName(t *testing.T) {
	s, r := namesSite(t)
	s.startNamesEdge(t)
	s.start(t)
	s.awaitChannel(t, "up")
	s.wantNames(t, buildName+".", firstSynthetic, ghostName+".", secondSynthetic)
	// No rule of the name covers port 53: its original address is asked.
	for _, by := range []string{"", "tcp "} {
		if got := s.namesFrom(t, by+firstSynthetic+":53", openName+"."); got[0] != openAddr {
			t.Errorf("%sserver with an original address: got %q, want %s", by, got, openAddr)
		}
	}
	if n := r.count(openName + " A"); n != 2 {
		t.Errorf("resolver was asked %d times, want twice", n)
	}
	if got := s.namesFrom(t, secondSynthetic+":53", openName+"."); got[0] != "server misbehaving" {
		t.Errorf("server without an original address: got %q", got)
	}
}
