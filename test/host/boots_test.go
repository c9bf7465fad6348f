package host

import "testing"

func TestInstalledServiceCarriesFlows(t *testing.T) {
	run(t, []check{
		{"host without bpfacq", remember},
		{"names without bpfacq", ordinaryNames},
		{"install section of the readme", install},
		{"status text", statusText},
		{"edge unit", edgeUnit},
		{"tunnel and bypass", tunnelAndBypass},
		{"acquired names", acquiredNames},
		{"server of no link", globalServer},
		{"packets at the uplink", packets},
		{"journal fields", journalFields},
		{"exposure", exposure},
		{"plain scope", plainScope},
		{"user session", userSession},
		{"user manager", userManager},
		{"container", container},
		{"killed", killed},
		{"restarted", restarted},
		{"the same synthetic address", acquiredNames},
		{"reloaded", reloaded},
		{"cache flushed", cacheFlushed},
		{"manager reloaded", managerReloaded},
		{"network stays as it was", networkUntouched},
		{"firewall that drops", firewall},
		{"journal without complaints", quietJournal},
		// The journal tells of what follows.
		{"frozen and thawed", frozen},
		{"reload refused", reloadRefused},
		{"names without the agent", namesWithoutAgent},
		{"packets without the agent", packetsWithoutAgent},
	})
}

func TestServiceIsBackAfterAReboot(t *testing.T) {
	run(t, []check{
		{"before the network is online", readyBeforeOnline},
		{"tunnel and bypass", tunnelAndBypass},
		{"packets at the uplink", packets},
		{"the same synthetic address", acquiredNames},
		{"network stays as it was", networkUntouched},
		{"journal without complaints", quietJournal},
		{"break the profile", breakProfile},
	})
}

func TestServiceIsBackWithABrokenProfile(t *testing.T) {
	run(t, []check{
		{"before the network is online", readyBeforeOnline},
		{"last good profile", lastGoodProfile},
		{"removed and installed again", removedAndBack},
		{"purged", purged},
	})
}
