package resolver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/netns"
)

// What the servers know of names that rules speak of. To nowhere.corp.example
// all say that there is no such name.
const (
	webName    = "web.corp.example"
	webAddr    = "203.0.113.10"
	webAddr6   = "2001:db8:2::10"
	openName   = "open.corp.example"
	openAddr   = "203.0.113.11"
	nowhere    = "nowhere.corp.example"
	safeName   = "safe.vault.example"
	safeAddr   = "203.0.113.12"
	loadName   = "load.corp.example" // and every name below
	loadAddr   = "203.0.113.77"
	loadAddr6  = "2001:db8:2::77"
	freeName   = "free.example" // and every name below
	freeAddr   = "203.0.113.78"
	freeAddr6  = "2001:db8:2::78"
	plainName  = "plain.example"
	plainAddr  = "203.0.113.20"
	plainAddr6 = "2001:db8:2::20"
)

// dnsmasqSettings make dnsmasq the only server of what it knows.
const dnsmasqSettings = `
port=53
no-resolv
no-hosts
no-poll
bind-interfaces
user=root
group=root
pid-file=
edns-packet-max=1232
local-ttl=300
local=/example/
local=/in-addr.arpa/
local=/ip6.arpa/
host-record=` + webName + `,` + webAddr + `,` + webAddr6 + `
host-record=` + openName + `,` + openAddr + `
host-record=` + safeName + `,` + safeAddr + `
host-record=` + plainName + `,` + plainAddr + `,` + plainAddr6 + `
host-record=xxxxxxxx.private.client.globalsecureaccess.microsoft.com,203.0.113.30
host-record=aps.globalsecureaccess.microsoft.com,203.0.113.31
host-record=private.edgediagnostic.globalsecureaccess.microsoft.com,203.0.113.32
address=/` + loadName + `/` + loadAddr + `
address=/` + loadName + `/` + loadAddr6 + `
address=/` + freeName + `/` + freeAddr + `
address=/` + freeName + `/` + freeAddr6 + `
cname=alias.example,` + plainName + `
cname=chain.corp.example,` + plainName + `
mx-host=` + plainName + `,mail.example,10
mx-host=` + webName + `,mail.example,20
txt-record=` + plainName + `,"one text","and another"
srv-host=_sip._tcp.` + plainName + `,` + plainName + `,5060,1,2
caa-record=` + plainName + `,0,issue,"ca.example"
naptr-record=` + plainName + `,10,20,"s","SIP+D2U","",_sip._udp.` + plainName + `
dns-rr=` + plainName + `,65280,00ff80
dns-rr=` + plainName + `,65,000100000100030268320004000400cb007114
`

// startDnsmasq starts dnsmasq on both of its addresses.
func (b *bed) startDnsmasq(t testing.TB) {
	t.Helper()
	path := b.write(t, "dnsmasq.conf", dnsmasqSettings+
		"listen-address="+dnsmasqAddr+"\nlisten-address="+dnsmasqAddr6+"\n"+bigTexts("txt-record=big.example,%s"))
	b.serve(t, dnsmasqAddr, testutil.Command(t, testutil.Program(t, "dnsmasq"), "--keep-in-foreground", "--log-facility=-",
		"--conf-file="+path))
}

// bigTexts are lines with texts of big.example, which are more than a datagram of
// 1232 bytes takes.
func bigTexts(format string) string {
	var lines strings.Builder
	for i := range 12 {
		fmt.Fprintf(&lines, format+"\n", fmt.Sprintf("%02d%s", i, strings.Repeat("x", 198)))
	}
	return lines.String()
}

// write writes a file of the bed's folder and returns its path.
func (b *bed) write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(b.folder, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// serve starts a server in the network and returns when it answers.
func (b *bed) serve(t testing.TB, addr string, cmd *exec.Cmd) {
	t.Helper()
	testutil.Start(t, b.net, "", cmd)
	awaitAnswer(t, b.net, netip.AddrPortFrom(netip.MustParseAddr(addr), 53))
}

// awaitAnswer returns once a server answers anything.
func awaitAnswer(t testing.TB, ns *netns.Namespace, server netip.AddrPort) {
	t.Helper()
	await(t, "an answer from "+server.String(), func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		conn, err := ns.DialContext(ctx, "tcp", server.String())
		if err != nil {
			return false
		}
		defer conn.Close()
		deadline, _ := ctx.Deadline()
		conn.SetDeadline(deadline)
		c := &dns.Conn{Conn: conn}
		if err := c.WriteMsg(new(dns.Msg).SetQuestion("ready.example.", dns.TypeA)); err != nil {
			return false
		}
		_, err = c.ReadMsg()
		return err == nil
	})
}

// silence takes queries to silentAddr, over UDP and TCP, and answers none.
func (b *bed) silence(t testing.TB) {
	t.Helper()
	conn, err := b.net.ListenPacket(t.Context(), "udp", silentAddr+":53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	testutil.Respond(t, b.net, silentAddr+":53", func(conn *net.TCPConn) {
		var nothing [512]byte
		for {
			if _, err := conn.Read(nothing[:]); err != nil {
				return
			}
		}
	})
}

// startUnbound starts unbound on both of its addresses. It has the zone
// signed.example, if the test made one, and of the rest only what is plain.
func (b *bed) startUnbound(t testing.TB, zones ...string) {
	t.Helper()
	path := b.write(t, "unbound.conf", fmt.Sprintf(`
server:
	directory: %q
	chroot: ""
	username: ""
	pidfile: ""
	use-syslog: no
	do-daemonize: no
	interface: %s
	interface: %s
	access-control: 0.0.0.0/0 allow
	access-control: ::/0 allow
	module-config: "iterator"
	rrset-roundrobin: no
	do-not-query-localhost: no
	local-zone: "." static
	local-zone: "example." static
	local-data: "%s 300 A %s"
	local-data: "%s 300 AAAA %s"
	local-data: "%s 300 TXT text"
	local-data: "%s 300 TYPE65280 \# 3 00ff80"
	local-data: "%s 300 A %s"
	local-data: "%s 300 A %s"
%s
remote-control:
	control-enable: no
%s`, b.folder, unboundAddr, unboundAddr6,
		plainName, plainAddr, plainName, plainAddr6, plainName, plainName, openName, openAddr, webName, webAddr,
		bigTexts(`	local-data: 'big.example 300 TXT "%s"'`), strings.Join(zones, "\n")))
	b.serve(t, unboundAddr, testutil.Command(t, testutil.Program(t, "unbound"), "-d", "-p", "-c", path))
}
