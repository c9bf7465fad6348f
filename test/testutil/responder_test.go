package testutil

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
)

func TestEchoEndsWhenItsPeerEnds(t *testing.T) {
	conn, err := net.Dial("tcp", Echo(t, nil, "127.0.0.1:0").String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "to and fro"); err != nil {
		t.Fatal(err)
	}
	conn.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "to and fro" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestResponderEndsWithOpenConnections(t *testing.T) {
	var conn net.Conn
	t.Run("user", func(t *testing.T) {
		var err error
		conn, err = net.Dial("tcp", Banner(t, nil, "127.0.0.1:0", "SSH-2.0-test\r\n").String())
		if err != nil {
			t.Fatal(err)
		}
	})
	defer conn.Close()
	if got, _ := io.ReadAll(conn); string(got) != "SSH-2.0-test\r\n" && len(got) != 0 {
		t.Errorf("got %q", got)
	}
}

func TestEdgeStubSpeaksBothProtocols(t *testing.T) {
	authority := NewAuthority(t)
	names := []string{"edge.example", "127.0.0.1"}
	addr := HTTPS(t, nil, "127.0.0.1:0", authority, names, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, r.Proto, http.StatusForbidden)
	}))
	for _, h2 := range []bool{true, false} {
		var protocols http.Protocols
		protocols.SetHTTP1(!h2)
		protocols.SetHTTP2(h2)
		transport := &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: authority.Roots()},
			Protocols:       &protocols,
		}
		response, err := (&http.Client{Transport: transport}).Get("https://" + addr.String())
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		transport.CloseIdleConnections()
		if response.StatusCode != http.StatusForbidden || (response.ProtoMajor == 2) != h2 {
			t.Errorf("h2 %t: got %s over %s", h2, response.Status, response.Proto)
		}
	}
}

func TestAuthorityIsTrustedByItsTestOnly(t *testing.T) {
	authority, other := NewAuthority(t), NewAuthority(t)
	addr := HTTPS(t, nil, "127.0.0.1:0", authority, []string{"edge.example"}, http.NotFoundHandler())
	for _, test := range []struct {
		name   string
		config *tls.Config
		want   bool
	}{
		{"its name and roots", &tls.Config{ServerName: "edge.example", RootCAs: authority.Roots()}, true},
		{"another name", &tls.Config{ServerName: "other.example", RootCAs: authority.Roots()}, false},
		{"other roots", &tls.Config{ServerName: "edge.example", RootCAs: other.Roots()}, false},
		{"the system's roots", &tls.Config{ServerName: "edge.example"}, false},
	} {
		conn, err := tls.Dial("tcp", addr.String(), test.config)
		if err == nil {
			conn.Close()
		}
		if (err == nil) != test.want {
			t.Errorf("%s: got %v", test.name, err)
		}
	}
}

func TestCertificateFilesLoad(t *testing.T) {
	files := NewAuthority(t).WriteFiles(t, t.TempDir(), "edge.example")
	if _, err := tls.LoadX509KeyPair(files.Certificate, files.Key); err != nil {
		t.Error(err)
	}
}
