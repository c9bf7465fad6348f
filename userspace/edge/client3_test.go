package edge

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// http3Flow is a flow over HTTP/3, on a connection of its own.
type http3Flow struct {
	*http3.RequestStream
	conn     *quic.Conn
	response *http.Response
}

func (f *http3Flow) closeWrite() { f.Close() }

func (f *http3Flow) reset() {
	f.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	f.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
}

// speaking has an edge speak the protocol.
func speaking(protocol string) func(*Options) {
	return func(o *Options) { o.HTTP3 = protocol == "h3" }
}

// dialHTTP3 connects to an edge, with datagrams if the configuration has them.
func dialHTTP3(tb testing.TB, addr net.Addr, config *tls.Config, change ...func(*quic.Config)) (*quic.Conn, *http3.ClientConn) {
	tb.Helper()
	config = config.Clone()
	config.NextProtos = []string{http3.NextProtoH3}
	options := &quic.Config{EnableDatagrams: true}
	for _, f := range change {
		f(options)
	}
	conn, err := quic.DialAddr(tb.Context(), addr.String(), config, options)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "") })
	return conn, (&http3.Transport{EnableDatagrams: options.EnableDatagrams}).NewClientConn(conn)
}

// request3 sends a request's header and reads the answer's.
func request3(tb testing.TB, addr net.Addr, config *tls.Config, request *http.Request) *http3Flow {
	tb.Helper()
	conn, client := dialHTTP3(tb, addr, config)
	stream, err := client.OpenRequestStream(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	if err := stream.SendRequestHeader(request); err != nil {
		tb.Fatal(err)
	}
	if request.Method != http.MethodConnect {
		stream.Close()
	}
	response, err := stream.ReadResponse()
	if err != nil {
		tb.Fatal(err)
	}
	return &http3Flow{stream, conn, response}
}

func connectRequest(target string) *http.Request {
	return &http.Request{Method: http.MethodConnect, Host: target, URL: &url.URL{Scheme: "https", Host: target}, Header: http.Header{}}
}

// ask3 is ask over HTTP/3.
func ask3(t *testing.T, addr net.Addr, config *tls.Config, method, target string, fields ...string) (status string, header map[string]string, body string) {
	t.Helper()
	request := connectRequest(target)
	if method != http.MethodConnect {
		request = &http.Request{Method: method, Host: "edge.test", URL: &url.URL{Scheme: "https", Host: "edge.test", Path: target}, Header: http.Header{}}
	}
	for i := 0; i < len(fields); i += 2 {
		request.Header.Set(fields[i], fields[i+1])
	}
	f := request3(t, addr, config, request)
	header = make(map[string]string)
	for name, values := range f.response.Header {
		header[strings.ToLower(name)] = values[0]
	}
	if method != http.MethodConnect || f.response.StatusCode != http.StatusOK {
		all, err := io.ReadAll(f.response.Body)
		if err != nil {
			t.Fatal(err)
		}
		body = string(all)
	}
	f.reset()
	return f.response.Status[:3], header, body
}
