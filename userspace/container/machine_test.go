package container

import "testing"

func TestPortsOfMachinesAreFound(t *testing.T) {
	description := []byte("<interface type='bridge'>\n  <target dev='vnet1'/>\n</interface>")
	for device, want := range map[string]bool{"vnet1": true, "vnet": false, "vnet11": false, "br0": false} {
		if got := hasPort(description, device); got != want {
			t.Errorf("%q: %t, want %t", device, got, want)
		}
	}
}
