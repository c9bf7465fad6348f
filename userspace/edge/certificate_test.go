package edge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"testing"
	"time"
)

func TestSelfSignedIsGoodForItsHostsAlone(t *testing.T) {
	certificate, err := SelfSigned([]string{"edge.test", "192.0.2.1", "2001:db8::1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if key, ok := certificate.PrivateKey.(*ecdsa.PrivateKey); !ok || key.Curve != elliptic.P256() {
		t.Errorf("key is %T, want ECDSA on P-256", certificate.PrivateKey)
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate.Leaf)
	for host, want := range map[string]bool{
		"edge.test": true, "192.0.2.1": true, "2001:db8::1": true,
		"a.edge.test": false, "192.0.2.2": false,
	} {
		if _, err := certificate.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots}); (err == nil) != want {
			t.Errorf("verify for %s: %v, want good = %t", host, err, want)
		}
	}
	late := x509.VerifyOptions{DNSName: "edge.test", Roots: roots, CurrentTime: time.Now().Add(2 * time.Hour)}
	if _, err := certificate.Leaf.Verify(late); err == nil {
		t.Error("the certificate is good after its lifetime")
	}
}

func TestSelfSignedWantsAHost(t *testing.T) {
	if _, err := SelfSigned(nil, time.Hour); err == nil {
		t.Error("a certificate for no host is made")
	}
}
