package capsule

import (
	"strings"
	"testing"
)

func TestPathsAreThoseOfTheDefaultTemplate(t *testing.T) {
	for _, test := range []struct {
		host string
		port uint16
		path string
	}{
		// The examples of RFC 9298 section 3.
		{"192.0.2.6", 443, "/.well-known/masque/udp/192.0.2.6/443/"},
		{"2001:db8::42", 443, "/.well-known/masque/udp/2001%3Adb8%3A%3A42/443/"},
		{"host.example", 1, "/.well-known/masque/udp/host.example/1/"},
		{"_a.host-name.example.", 65535, "/.well-known/masque/udp/_a.host-name.example./65535/"},
	} {
		if got := Path(test.host, test.port); got != test.path {
			t.Errorf("path of %s is %s, want %s", test.host, got, test.path)
		}
		authority, err := ParsePath(test.path)
		host, _, _ := strings.Cut(strings.Trim(authority, "["), "]")
		if err != nil || !strings.HasPrefix(host, test.host) {
			t.Errorf("%s asks for %q (%v)", test.path, authority, err)
		}
	}
}

func TestPathsOfNothingAreRefused(t *testing.T) {
	for _, path := range []string{
		"",
		"/",
		"/.well-known/masque/udp/",
		"/.well-known/masque/udp//443/",
		"/.well-known/masque/udp/host.example/",
		"/.well-known/masque/udp/host.example/443",
		"/.well-known/masque/udp/host.example/443/more",
		"/.well-known/masque/udp/host.example/443//",
		"/.well-known/masque/udp/host.example/0/",
		"/.well-known/masque/udp/host.example/65536/",
		"/.well-known/masque/udp/host.example/+1/",
		"/.well-known/masque/udp/host.example//",
		"/.well-known/masque/udp/host%zz/443/",
		"/.well-known/masque/udp/fe80%3A%3A1%25eth0/443/",
		"/.well-known/masque/ip/host.example/443/",
	} {
		if authority, err := ParsePath(path); err == nil || authority != "" {
			t.Errorf("%q asks for %q", path, authority)
		}
	}
}

func TestPathIsReadWithPercentEncoding(t *testing.T) {
	for path, want := range map[string]string{
		"/.well-known/masque/udp/2001:db8::42/53/":        "[2001:db8::42]:53", // some clients leave the colons
		"/.well-known/masque/udp/2001%3adb8%3a%3a42/53/":  "[2001:db8::42]:53",
		"/.well-known/masque/udp/%68ost.example/053/":     "host.example:53",
		"/.well-known/masque/udp/host%2Fslash.example/1/": "host/slash.example:1",
	} {
		if got, err := ParsePath(path); got != want || err != nil {
			t.Errorf("%s asks for %q (%v), want %q", path, got, err, want)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	f.Add("/.well-known/masque/udp/2001%3Adb8%3A%3A42/443/")
	f.Add("/.well-known/masque/udp/%00/443/")
	f.Fuzz(func(t *testing.T, path string) {
		if authority, err := ParsePath(path); (authority == "") == (err == nil) {
			t.Fatalf("%q: %q and %v", path, authority, err)
		}
	})
}
