package edge

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
)

// unhex reads hexadecimal digits; blanks are for people.
func unhex(s string) []byte {
	p, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return p
}

// The bytes are written from RFC 9297 sections 3.2 and 3.5, RFC 9298 sections 4
// and 5, and RFC 9000 section 16 and appendix A.1. What comes back is the edge's
// own encoding: the shortest.
func TestCapsulesAsTheRFCsWriteThem(t *testing.T) {
	tests := []struct{ name, sent, returned string }{
		{"a datagram", "00 05 00 70696e67", "00 05 00 70696e67"},
		{"an empty payload", "00 01 00", "00 01 00"},
		{"type and length in two bytes", "4000 4005 00 70696e67", "00 05 00 70696e67"},
		{"type and length in four bytes", "80000000 80000005 00 70696e67", "00 05 00 70696e67"},
		{"type and length in eight bytes", "c000000000000000 c000000000000005 00 70696e67", "00 05 00 70696e67"},
		{"context in two bytes", "00 06 4000 70696e67", "00 05 00 70696e67"},
		{"two in a row", "00 02 00 61 00 02 00 62", "00 02 00 61 00 02 00 62"},
		{"another context", "00 05 02 70696e67 00 02 00 61", "00 02 00 61"},
		{"another type", "17 03 000000 00 02 00 61", "00 02 00 61"},
		{"another type, empty", "17 00 00 02 00 61", "00 02 00 61"},
		{"a reserved type of eight bytes", "c2197c5eff14e88c 02 ffff 00 02 00 61", "00 02 00 61"},
	}
	_, addr, config := serve(t, func(o *Options) { o.HTTP3 = true })
	target := udpTarget(serveUDP(t, "udp4", echoUDP))
	for _, test := range tests {
		want := unhex(test.returned)
		got := make([]byte, len(want))
		t.Run("h2 "+test.name, func(t *testing.T) {
			s := dialClient(t, addr, config).connectUDP(target)
			for _, b := range unhex(test.sent) { // a frame for each byte
				s.Write([]byte{b})
			}
			if _, err := io.ReadFull(s, got); err != nil || string(got) != string(want) {
				t.Errorf("received %x, %v, want %x", got, err, want)
			}
		})
		t.Run("h3 "+test.name, func(t *testing.T) {
			f, _ := withoutDatagrams(t, addr.String(), config, target)
			f.Write(unhex(test.sent))
			if _, err := io.ReadFull(f, got); err != nil || string(got) != string(want) {
				t.Errorf("received %x, %v, want %x", got, err, want)
			}
		})
	}
}

// withoutDatagrams opens a flow on a connection that has capsules alone.
func withoutDatagrams(t *testing.T, addr string, config *tls.Config, path string) (*http3.RequestStream, *quic.Conn) {
	t.Helper()
	config = config.Clone()
	config.NextProtos = []string{http3.NextProtoH3}
	conn, err := quic.DialAddr(t.Context(), addr, config, &quic.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "") })
	stream, err := new(http3.Transport).NewClientConn(conn).OpenRequestStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stream.SendRequestHeader(connectUDPRequest(path))
	if response, err := stream.ReadResponse(); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("response %v, %v", response, err)
	}
	return stream, conn
}

func TestMalformedCapsulesResetTheirStream(t *testing.T) {
	target := udpTarget(serveUDP(t, "udp4", echoUDP))
	for name, sent := range map[string]string{
		"longer than any UDP payload": "00 80010000 00",
		"longest of lengths":          "00 ffffffffffffffff 00",
		"no room for a context":       "00 00",
		"cut context":                 "00 01 40",
	} {
		t.Run("h2 "+name, func(t *testing.T) {
			_, addr, config := serve(t)
			c := dialClient(t, addr, config)
			s := c.connectUDP(target)
			if status, err := s.status(); status != "200" {
				t.Fatal(status, err)
			}
			s.Write(unhex(sent))
			if err := s.awaitEnd(); !errors.Is(err, errStreamReset) || s.resetCode() != "PROTOCOL_ERROR" {
				t.Errorf("end of the stream: %v, want a reset with PROTOCOL_ERROR", err)
			}
			if status, err := c.connectUDP(target).status(); status != "200" {
				t.Errorf("the next flow of the connection: status %s, %v", status, err)
			}
		})
		t.Run("h3 "+name, func(t *testing.T) {
			_, addr, config := serve(t, speaking("h3"))
			f := request3(t, addr, config, connectUDPRequest(target))
			f.Write(unhex(sent))
			_, err := io.Copy(io.Discard, f)
			if broken, ok := errors.AsType[*http3.Error](err); !ok || broken.ErrorCode != http3.ErrCodeMessageError {
				t.Errorf("end of the stream: %v, want a reset with H3_MESSAGE_ERROR", err)
			}
		})
	}
}

// RFC 8441 section 3 and RFC 9297 section 2.1.1: the edge says what it speaks.
func TestEdgeAnnouncesExtendedConnectAndDatagrams(t *testing.T) {
	_, addr, config := serve(t, speaking("h3"))
	conn, err := tls.Dial("tcp", addr.String(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.NetConn().Close()
	io.WriteString(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, conn)
	framer.WriteSettings()
	frame, err := framer.ReadFrame()
	settings, ok := frame.(*http2.SettingsFrame)
	if !ok {
		t.Fatalf("first frame %v, %v", frame, err)
	}
	if v, _ := settings.Value(http2.SettingEnableConnectProtocol); v != 1 {
		t.Errorf("SETTINGS_ENABLE_CONNECT_PROTOCOL = %d, want 1", v)
	}
	_, client := dialHTTP3(t, addr, config)
	<-client.ReceivedSettings()
	if s := client.Settings(); !s.EnableExtendedConnect || !s.EnableDatagrams {
		t.Errorf("settings of HTTP/3 %+v, want extended CONNECT and datagrams", s)
	}
}

// The HTTP/2 client of golang.org/x/net, and quic-go's reader of capsules.
func TestOtherClientsCarryDatagrams(t *testing.T) {
	target := serveUDP(t, "udp4", echoUDP)
	_, addr, config := serve(t)
	conn, err := tls.Dial("tcp", addr.String(), config)
	if err != nil {
		t.Fatal(err)
	}
	//lint:ignore SA1019 The client of net/http refuses to send :protocol.
	client, err := new(http2.Transport).NewClientConn(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	read, write := io.Pipe()
	defer write.Close()
	request := connectUDPRequest(udpTarget(target)).WithContext(ctx)
	request.URL.Host = addr.String()
	request.Header.Set(":protocol", "connect-udp")
	request.Proto, request.Body = "", read
	response, err := client.RoundTrip(request)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("response %v, %v", response, err)
	}
	defer response.Body.Close()
	parser := http3.NewCapsuleParser(response.Body)
	for _, sent := range []string{"ping", "", strings.Repeat("x", 9000)} {
		write.Write(writeCapsule([]byte(sent)))
		kind, value, err := parser.Next()
		if err != nil || kind != 0 {
			t.Fatalf("capsule of type %d, %v", kind, err)
		}
		if got, err := io.ReadAll(value); err != nil || string(got) != "\x00"+sent {
			t.Errorf("received %d bytes, %v, want %d", len(got), err, 1+len(sent))
		}
	}
}

func TestEdgeAnnouncesHTTP3(t *testing.T) {
	target := serveOrigin(t, echo)
	for name, test := range map[string]struct {
		change func(*Options)
		want   string // PORT for the port
	}{
		"not spoken": {func(*Options) {}, ""},
		"for UDP":    {func(o *Options) { o.HTTP3 = true }, `h2=":PORT", h3=":PORT"`},
		"preferred":  {func(o *Options) { o.HTTP3, o.PreferHTTP3 = true, true }, `h3=":PORT", h2=":PORT"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, addr, config := serve(t, test.change)
			_, port, _ := strings.Cut(addr.String(), ":")
			want := strings.ReplaceAll(test.want, "PORT", port)
			for _, protocol := range []string{"h2", "http/1.1"} {
				for _, request := range [][2]string{{"GET", DiagnosticPath}, {"CONNECT", target}, {"CONNECT", "192.0.2.1:80"}} {
					if _, header, _ := ask(t, protocol, addr, config, request[0], request[1]); header["alt-svc"] != want {
						t.Errorf("%s %s: Alt-Svc %q, want %q", protocol, request, header["alt-svc"], want)
					}
				}
			}
		})
	}
}

func TestHTTP3ConnectionsOverTheLimitAreRefused(t *testing.T) {
	_, addr, config := serve(t, speaking("h3"), func(o *Options) { o.MaxConnections = 1 })
	first, _ := dialHTTP3(t, addr, config)
	config = config.Clone()
	config.NextProtos = []string{http3.NextProtoH3}
	conn, err := quic.DialAddr(t.Context(), addr.String(), config, nil)
	if refused, ok := errors.AsType[*quic.TransportError](err); !ok || refused.ErrorCode != quic.ConnectionRefused {
		t.Errorf("second connection: %v, %v, want CONNECTION_REFUSED", conn, err)
	}
	first.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	for err != nil && t.Context().Err() == nil {
		conn, err = quic.DialAddr(t.Context(), addr.String(), config, nil)
	}
	if conn == nil {
		t.Fatal(err)
	}
	conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}
