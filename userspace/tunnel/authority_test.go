package tunnel

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
)

func TestAuthorityIsANameOrAddressWithPort(t *testing.T) {
	for _, good := range []string{
		"host.example:443", "a:1", "192.0.2.1:65535", "[2001:db8::1]:22", "_sip._tcp.example:5061", "xn--bcher-kva.example:80", "host.example.:443",
	} {
		if err := checkAuthority(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{
		"", "host.example", "host.example:", ":443", "host.example:0", "host.example:65536", "host.example:+1", "host.example:x",
		"2001:db8::1:443", "[2001:db8::1]", "[fe80::1%eth0]:22", "[192.0.2.1]:22", "[host.example]:443", "[]:443",
		"host example:443", "host.example\r\n:443", "host.example:443\r\n", "user@host.example:443", "host/path:443", "bücher.example:80",
		strings.Repeat("a", 256) + ":443",
	} {
		if err := checkAuthority(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func FuzzAuthority(f *testing.F) {
	f.Add("host.example:443")
	f.Add("[2001:db8::1]:22")
	f.Add("a:1 HTTP/1.1\r\nX: y\r\n")
	f.Fuzz(func(t *testing.T, authority string) {
		if checkAuthority(authority) != nil {
			return
		}
		text := "CONNECT " + authority + " HTTP/1.1\r\nHost: " + authority + "\r\n\r\n"
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil || r.RequestURI != authority || r.Host != authority || len(r.Header) != 0 {
			t.Errorf("%q is read as %+v, %v", authority, r, err)
		}
	})
}
