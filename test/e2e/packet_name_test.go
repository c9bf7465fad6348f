package e2e

import (
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// nameRule carries one port of the names below corp.example.
const nameRule = `{"id":"names","channelId":"` + sampleChannel + `","order":ORDER,"action":"Tunnel","hardening":"Block",` +
	`"matchingCriteria":{"address":{"ips":[],"fqdns":[".+\\.corp\\.example"]},` +
	`"ports":[{"start":4433,"end":4433}],"protocol":"Any"}}`

// A name is its synthetic address to datagrams, too. Where no rule covers a port,
// it is the name's original address.
func TestDatagramsToNamesAreCarriedByName(t *testing.T) {
	s := newPacketSite(t)
	s.setProfile(t, packetProfile(append(packetRules(), nameRule)...))
	newNameServer(t, s.net, resolverAddr, map[string]string{buildName: buildAddr})
	s.startPacketEdge(t, "*.corp.example:*")
	testutil.EchoDatagrams(t, s.net, classPort)
	testutil.Echo(t, s.net, webAddr+":4433")
	s.start(t)
	s.awaitChannel(t, "up")
	s.wantNames(t, ghostName, firstSynthetic, buildName, secondSynthetic)
	for _, from := range s.places() {
		p := s.speaker(t, from.namespace)
		p.want(t, "opened", "open", "a", "udp4")
		p.want(t, "opened", "open", "b", "udp4")
		for _, size := range []int{10, 4000} {
			for _, to := range []string{at(firstSynthetic, echoPort), at(secondSynthetic, echoPort), at(secondSynthetic, classPort)} {
				p.want(t, echoed(to, size), "echo", "a", to, size)
			}
		}
		to := at(secondSynthetic, echoPort)
		p.want(t, "connected", "connect", "b", to)
		p.want(t, echoed(to, 100), "echo", "b", "-", 100)
		got := testutil.Child(t, from.namespace, s.cgroup, "exchange", "bulk=10000", at(firstSynthetic, echoPort))
		if want := "10000 bytes came back"; got != want {
			t.Errorf("TCP of the %s: got %q, want %q", from.name, got, want)
		}
	}
	list, err := s.control.Flows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[string]int)
	for _, f := range list.Flows {
		named[f.Name]++
	}
	if named[ghostName] < 4 || named[buildName] < 2 {
		t.Errorf("flows by name: %v, want some of each", named)
	}
	s.wantFirewallAtEase(t)
	s.stop(t)
}
