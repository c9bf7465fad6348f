package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/userspace/edge"
)

// writeCertificate makes a certificate for 127.0.0.1 and returns its files.
func writeCertificate(t *testing.T) (certificate, key string, roots *x509.CertPool) {
	t.Helper()
	pair, err := edge.SelfSigned([]string{"127.0.0.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	certificate, key = filepath.Join(folder, "edge.pem"), filepath.Join(folder, "edge.key")
	for name, block := range map[string]*pem.Block{
		certificate: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]},
		key:         {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roots = x509.NewCertPool()
	roots.AddCert(pair.Leaf)
	return certificate, key, roots
}

func TestEdgeServesTunnelsAndMetricsUntilStopped(t *testing.T) {
	certificate, key, roots := writeCertificate(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	logs, write := io.Pipe()
	var (
		wg  sync.WaitGroup
		got result
	)
	wg.Go(func() {
		got = execute(ctx, func(e *env) { e.stderr = write }, "edge", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0",
			"--certificate", certificate, "--key", key, "--allow", "example.com:443", "--prefer-http3")
		write.Close()
	})

	// Both addresses are logged, in either order.
	addresses := make(map[string]string)
	lines := bufio.NewScanner(logs)
	for len(addresses) < 2 && lines.Scan() {
		_, address, _ := strings.Cut(lines.Text(), "address=")
		addresses[strings.Fields(lines.Text())[2]] = address
	}
	wg.Go(func() { io.Copy(io.Discard, logs) })

	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots},
		DisableKeepAlives: true,
	}}
	for _, url := range []string{
		"https://" + addresses[`msg="edge`] + edge.DiagnosticPath,
		"http://" + addresses[`msg="metrics`] + "/metrics",
	} {
		resp, err := client.Get(url)
		if err != nil {
			t.Errorf("get %s: %v", url, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("get %s: %s %q, %v", url, resp.Status, body, err)
		}
		if announced := resp.Header.Get("Alt-Svc"); strings.HasPrefix(url, "https:") && !strings.HasPrefix(announced, "h3=") {
			t.Errorf("get %s: Alt-Svc %q, want h3 first", url, announced)
		}
	}
	cancel()
	wg.Wait()
	if got.status != 0 || got.stdout != "" {
		t.Errorf("edge = %+v", got)
	}
}

func TestEdgeKeepsFlowsOfUDPForTwoMinutes(t *testing.T) {
	got := execute(t.Context(), nil, "edge", "--certificate", "c", "--key", "k", "--allow", "example.com:443/udp", "--udp-idle", "119s")
	if got.status != 2 || !strings.Contains(got.stderr, "--udp-idle 1m59s is shorter than 2m0s") {
		t.Errorf("edge = %+v", got)
	}
}

func TestEdgeNeedsAPrivateTokenFile(t *testing.T) {
	certificate, key, _ := writeCertificate(t)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	got := execute(t.Context(), nil, "edge", "--listen", "127.0.0.1:0", "--token-file", token,
		"--certificate", certificate, "--key", key, "--allow", "example.com:443")
	if got.status != 1 || !strings.Contains(got.stderr, "open to group or others") || strings.Contains(got.stderr, "secret") {
		t.Errorf("edge = %+v", got)
	}
}
