package host

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"

	"github.com/coreos/go-systemd/v22/daemon"
)

// The site around the host is made by the units of the image, before the network
// is configured: two namespaces, each with a link to the host. Both hold the
// same target, so that an answer tells the way that the question took.
//
//	host 10.99.0.1 ── uplink ── 10.99.0.2 edge   (bpfacq-edge, target)
//	host 10.98.0.1 ── direct ── 10.98.0.2 direct (target; the host's route to it)
const (
	target      = "192.168.11.200" // a Tunnel rule of the sample names it
	edgeAddress = "10.99.0.2:443"

	viaEdge = "edge"
	direct  = "direct"

	tunnelPort = 80
	bypassPort = 81
)

// answerScenario is the target of one namespace, until it is killed: on every
// port it answers the namespace's name.
func answerScenario(args []string, _ io.Writer) error {
	failed := make(chan error)
	for _, port := range []int{tunnelPort, bypassPort} {
		l, err := net.Listen("tcp", net.JoinHostPort(target, strconv.Itoa(port)))
		if err != nil {
			return err
		}
		answer := func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, args[0]+"\n") }
		go func() { failed <- http.Serve(l, http.HandlerFunc(answer)) }()
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return err
	}
	return errors.Join(errors.New("answer"), <-failed)
}
