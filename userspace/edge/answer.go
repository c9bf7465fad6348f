package edge

import (
	"log/slog"
	"net/http"
	"strconv"

	"golang.org/x/net/http2/hpack"

	"github.com/bpfacq/bpfacq/userspace/capsule"
)

// answer is a whole response to a request that becomes no flow, in either
// protocol.
type answer struct {
	status int
	fields []hpack.HeaderField // names in lower case
	body   string
}

func newAnswer(status int, text string) *answer {
	body := text + "\n"
	return &answer{status, []hpack.HeaderField{
		{Name: "content-type", Value: "text/plain; charset=utf-8"},
		{Name: "content-length", Value: strconv.Itoa(len(body))},
	}, body}
}

// plainAnswer answers what is no CONNECT.
func plainAnswer(method, path string) *answer {
	if path == DiagnosticPath && (method == http.MethodGet || method == http.MethodHead) {
		return newAnswer(http.StatusOK, "pong")
	}
	if method == http.MethodGet || method == http.MethodHead {
		return newAnswer(http.StatusNotFound, "this is a bpfacq edge: send CONNECT host:port, or GET "+DiagnosticPath)
	}
	a := newAnswer(http.StatusMethodNotAllowed, "send CONNECT host:port, or GET "+DiagnosticPath)
	a.fields = append(a.fields, hpack.HeaderField{Name: "allow", Value: "CONNECT, GET, HEAD"})
	return a
}

// unknownProtocol answers an extended CONNECT for something else than UDP.
func unknownProtocol() *answer {
	return newAnswer(http.StatusNotImplemented, "send CONNECT without :protocol, or with "+capsule.Protocol)
}

// badPath answers a CONNECT-UDP for another URI template than the default, or
// for no port of a host.
func badPath() *answer {
	return newAnswer(http.StatusBadRequest, "send CONNECT-UDP for /.well-known/masque/udp/HOST/PORT/")
}

// refuse counts and logs a refusal, and returns what to answer.
func (e *Edge) refuse(client string, p protocol, authority string, r *refusal) *answer {
	e.metrics.blocked(p, r.reason)
	e.log.Info("refuse flow", slog.String("client", client), slog.String("protocol", string(p)),
		slog.String("authority", authority), slog.String("reason", r.reason), slog.Int("status", r.status))
	a := newAnswer(r.status, r.text)
	a.fields = append(a.fields, hpack.HeaderField{Name: "proxy-status", Value: "bpfacq; error=" + r.proxy})
	if r.status == http.StatusProxyAuthRequired {
		a.fields = append(a.fields, hpack.HeaderField{Name: "proxy-authenticate", Value: `Bearer realm="bpfacq"`})
	}
	return a
}
