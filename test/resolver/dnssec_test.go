package resolver

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// signedZone is where bogus.signed.example is changed after it was signed.
const signedZone = `$ORIGIN signed.example.
$TTL 300
@       SOA   ns.signed.example. root.signed.example. 1 3600 600 86400 300
@       NS    ns
ns      A     192.0.2.54
www     A     203.0.113.40
www     AAAA  2001:db8:2::40
alias   CNAME www
bogus   A     203.0.113.41
text    TXT   "signed"
`

// signZone signs the zone with a key of its own. It returns what makes unbound
// serve it, and the path of the key, in the form of a record.
func (b *bed) signZone(t testing.TB) (zone, key string) {
	t.Helper()
	plain := b.write(t, "signed.example.zone", signedZone)
	run := func(name string, args ...string) string {
		cmd := testutil.Command(t, testutil.Program(t, name), args...)
		out, err := testutil.Output(t, nil, "", cmd)
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		return strings.TrimSpace(out)
	}
	key = filepath.Join(b.folder, run("dnssec-keygen", "-q", "-K", b.folder, "-a", "ECDSAP256SHA256", "-f", "KSK", "signed.example")+".key")
	path := plain + ".signed"
	run("dnssec-signzone", "-q", "-S", "-z", "-P", "-K", b.folder, "-d", b.folder, "-o", "signed.example", "-O", "full", "-f", path, plain)

	signed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(signed), "203.0.113.41", "203.0.113.99", 1)
	if changed == string(signed) {
		t.Fatal("signed zone has no bogus.signed.example")
	}
	b.write(t, filepath.Base(path), changed)
	return fmt.Sprintf("server:\n\tlocal-zone: signed.example transparent\nauth-zone:\n\tname: signed.example\n\tzonefile: %q\n\tfor-downstream: yes\n\tfor-upstream: no\n", path), key
}

// trustAnchor is a file by which delv trusts the key.
func (b *bed) trustAnchor(t testing.TB, key string) string {
	t.Helper()
	text, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	record, err := dns.ReadRR(strings.NewReader(string(text)), key)
	if err != nil {
		t.Fatal(err)
	}
	k := record.(*dns.DNSKEY)
	return b.write(t, "anchors", fmt.Sprintf("trust-anchors { \"signed.example\" static-key %d %d %d %q; };\n",
		k.Flags, k.Protocol, k.Algorithm, k.PublicKey))
}

// questions are what validating stubs are asked, and whether they should believe
// the answer.
func questions() map[string]bool {
	return map[string]bool{
		"www.signed.example A":     true,
		"www.signed.example AAAA":  true,
		"alias.signed.example A":   true,
		"text.signed.example TXT":  true,
		"missing.signed.example A": true,
		"www.signed.example MX":    true,
		"signed.example DNSKEY":    true,
		"bogus.signed.example A":   false,
	}
}

func TestValidatingStubsSeeNoDifference(t *testing.T) {
	b := newBed(t)
	zone, key := b.signZone(t)
	b.startUnbound(t, zone)
	b.startEdge(t)
	anchor := b.trustAnchor(t, key)

	without := b.delv(t, anchor)
	for question, believed := range questions() {
		if text := without["delv "+question]; strings.Contains(text, "fully validated") != believed {
			t.Errorf("delv %s is believed: %t, want %t:\n%s", question, !believed, believed, text)
		}
	}
	b.validate(t, key, 5335, without)
	for question, believed := range questions() {
		text := without["unbound "+question]
		if authentic := strings.Contains(text, " ad"); authentic != believed {
			t.Errorf("unbound says that %s is authentic: %t, want %t:\n%s", question, authentic, believed, text)
		}
	}

	b.start(t)
	with := b.delv(t, anchor)
	b.validate(t, key, 5336, with)
	if diff := cmp.Diff(without, with); diff != "" {
		t.Errorf("validating stubs see a difference:\n%s", diff)
	}
}

// delv asks delv, which validates by itself.
func (b *bed) delv(t *testing.T, anchor string) map[string]string {
	t.Helper()
	texts := make(map[string]string)
	for question := range questions() {
		args := append([]string{"@" + unboundAddr, "-a", anchor, "+root=signed.example"}, strings.Fields(question)...)
		text, err := b.run(t, b.program(t, "delv", args...))
		texts["delv "+question] = fmt.Sprintf("%s%v", text, err)
	}
	return texts
}

// validate asks an unbound on the host, which validates what it gets from the one
// in the network.
func (b *bed) validate(t *testing.T, key string, port int, into map[string]string) {
	t.Helper()
	path := b.write(t, "stub.conf", fmt.Sprintf(`
server:
	directory: %q
	chroot: ""
	username: ""
	pidfile: ""
	use-syslog: no
	do-daemonize: no
	interface: 127.0.0.1@%d
	module-config: "validator iterator"
	trust-anchor-file: %q
	do-not-query-localhost: no
	local-zone: "example." nodefault
stub-zone:
	name: signed.example
	stub-addr: %s
remote-control:
	control-enable: no
`, b.folder, port, key, unboundAddr))
	cmd := b.program(t, "unbound", "-d", "-p", "-c", path)
	testutil.Start(t, b.host, b.cgroup, cmd)
	testutil.WaitListening(t, b.host, fmt.Sprintf("127.0.0.1:%d", port))
	for question := range questions() {
		args := append([]string{"@127.0.0.1", "-p", fmt.Sprint(port), "+dnssec", "+nocookie", "+noall", "+comments", "+answer", "+nottlid", "+qid=1"},
			strings.Fields(question)...)
		text, err := b.run(t, b.program(t, "dig", args...))
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, text)
		}
		into["unbound "+question] = text
	}
}
