package host

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/miekg/dns"
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
	strictPort = 82 // of a rule of UDP whose hardening is Block

	// Rules of the sample name both. Only the edge's resolver knows the first, and
	// only the host's, which is that of the link "direct", the second.
	tunnelName = "private.edgediagnostic.globalsecureaccess.microsoft.com"
	bypassName = "aps.globalsecureaccess.microsoft.com"

	// publicNames are below this one. The host's resolver knows them all.
	publicNames = ".example.net"
)

// answerScenario is the target of one namespace, until it is killed: on every
// port it answers the namespace's name, by TCP and UDP. It is the resolver of that
// namespace, too.
func answerScenario(args []string, _ io.Writer) error {
	failed := make(chan error)
	names, err := net.ListenPacket("udp", ":53")
	if err != nil {
		return err
	}
	resolver := &dns.Server{PacketConn: names, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		w.WriteMsg(resolve(args[0], query))
	})}
	go func() { failed <- resolver.ActivateAndServe() }()
	for _, port := range []int{tunnelPort, bypassPort} {
		l, err := net.Listen("tcp", net.JoinHostPort(target, strconv.Itoa(port)))
		if err != nil {
			return err
		}
		answer := func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, args[0]+"\n") }
		go func() { failed <- http.Serve(l, http.HandlerFunc(answer)) }()
	}
	for _, port := range []int{tunnelPort, bypassPort, strictPort} {
		asked, err := net.ListenPacket("udp", net.JoinHostPort(target, strconv.Itoa(port)))
		if err != nil {
			return err
		}
		go func() { failed <- answerDatagrams(asked, args[0]) }()
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return err
	}
	return errors.Join(errors.New("answer"), <-failed)
}

// answerDatagrams answers every datagram with a name.
func answerDatagrams(asked net.PacketConn, name string) error {
	var question [64]byte
	for {
		_, from, err := asked.ReadFrom(question[:])
		if err == nil {
			_, err = asked.WriteTo([]byte(name), from)
		}
		if err != nil {
			return err
		}
	}
}

// resolve answers a query as the resolver of a namespace: with the target's address,
// or that there is no such name.
func resolve(namespace string, query *dns.Msg) *dns.Msg {
	answer := new(dns.Msg).SetReply(query)
	q := query.Question[0]
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	known := name == tunnelName
	if namespace == direct {
		known = name == bypassName || strings.HasSuffix(name, publicNames)
	}
	switch {
	case !known:
		answer.Rcode = dns.RcodeNameError
	case q.Qtype == dns.TypeA:
		header := dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}
		answer.Answer = []dns.RR{&dns.A{Hdr: header, A: net.ParseIP(target)}}
	}
	return answer
}
