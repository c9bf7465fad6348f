package testutil

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority is a certificate authority that only one test trusts.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// Files are paths of PEM files, for programs that cannot be given a
// [tls.Certificate]. HAProxy finds the key by the certificate's name.
type Files struct {
	Roots       string // the authority's own certificate
	Certificate string
	Key         string
}

// NewAuthority returns a fresh authority.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	template := certificate(pkix.Name{CommonName: "bpfacq test authority"})
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign
	a := &Authority{certificate: template, key: newKey(t)}
	a.certificate = a.sign(t, template, a.key)
	return a
}

// Roots returns the pool that holds only this authority.
func (a *Authority) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// Issue returns a certificate for names, each a DNS name or an IP literal.
func (a *Authority) Issue(t testing.TB, names ...string) tls.Certificate {
	t.Helper()
	template := certificate(pkix.Name{CommonName: "bpfacq test edge"})
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	key := newKey(t)
	leaf := a.sign(t, template, key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// WriteFiles issues a certificate for names and writes it, its key and the
// authority's certificate to folder.
func (a *Authority) WriteFiles(t testing.TB, folder string, names ...string) Files {
	t.Helper()
	issued := a.Issue(t, names...)
	key, err := x509.MarshalPKCS8PrivateKey(issued.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(folder, name)
		block := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		if err := os.WriteFile(path, block, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return Files{
		Roots:       write("roots.pem", "CERTIFICATE", a.certificate.Raw),
		Certificate: write("certificate.pem", "CERTIFICATE", issued.Leaf.Raw),
		Key:         write("certificate.pem.key", "PRIVATE KEY", key),
	}
}

// certificate is what all certificates have in common. They are valid in the
// present and at the start of a synctest bubble's clock, the year 2000.
func certificate(subject pkix.Name) *x509.Certificate {
	return &x509.Certificate{
		Subject:   subject,
		NotBefore: time.Date(1999, time.January, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:  time.Date(2099, time.January, 1, 0, 0, 0, 0, time.UTC),
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *Authority) sign(t testing.TB, template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}
