package control

import (
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

func TestExplainAsksForTheFlow(t *testing.T) {
	agent := &fakeAgent{}
	got, err := serve(t, agent).Explain(t.Context(), "udp", "[2001:db8::1]:53")
	if err != nil {
		t.Fatal(err)
	}
	want := policy.Flow{Protocol: policy.UDP, Addr: netip.MustParseAddr("2001:db8::1"), Port: 53}
	if len(agent.explored) != 1 || agent.explored[0] != want {
		t.Errorf("the agent was asked %+v, want %+v", agent.explored, want)
	}
	if got.Schema != 1 || got.Verdict != "pass" || got.Reason != policy.ReasonNoMatch {
		t.Errorf("Explain = %+v", got)
	}
	if got.Path == nil || *got.Path != (Path{Way: WayDirect, Why: "why", Device: "eth0"}) {
		t.Errorf("path is %+v", got.Path)
	}
	if q := (PathQuestion{Flow: want, Verdict: "pass"}); len(agent.paths) != 1 || agent.paths[0] != q {
		t.Errorf("the agent was asked for the path of %+v, want %+v", agent.paths, q)
	}
}

func TestExplainAsksForTheNamespace(t *testing.T) {
	agent := &fakeAgent{}
	c := serve(t, agent)
	if _, err := c.ExplainFrom(t.Context(), 4026531840, "tcp", "192.0.2.1:80"); err != nil {
		t.Fatal(err)
	}
	if len(agent.paths) != 1 || agent.paths[0].Namespace != 4026531840 {
		t.Errorf("the agent was asked for the path of %+v", agent.paths)
	}
	for _, inode := range []string{"x", "0", "-1"} {
		query := url.Values{"protocol": {"tcp"}, "destination": {"192.0.2.1:80"}, "netns": {inode}}
		_, err := ask[Explained](t.Context(), c, http.MethodGet, pathExplain, query, nil)
		if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Status != http.StatusBadRequest {
			t.Errorf("namespace %q: %v, want status 400", inode, err)
		}
	}
	if len(agent.paths) != 1 {
		t.Errorf("the agent was asked for the path of %+v", agent.paths)
	}
}

func TestExplainRefusesMistakesOfTheAsker(t *testing.T) {
	agent := &fakeAgent{}
	_, err := serve(t, agent).Explain(t.Context(), "tcp", "2001:db8::1:443")
	refused, ok := errors.AsType[*RefusedError](err)
	if !ok || refused.Status != http.StatusBadRequest || !strings.Contains(refused.Text, "brackets") {
		t.Errorf("Explain: %v, want status 400 that speaks of brackets", err)
	}
	if len(agent.explored) != 0 {
		t.Errorf("the agent was asked %+v", agent.explored)
	}
}
