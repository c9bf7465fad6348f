package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Limits of the server. The largest profile that a policy budget admits is
// about 40 MB of JSON.
const (
	maxProfile   = 64 << 20
	maxHeader    = 16 << 10
	headTimeout  = 5 * time.Second
	readTimeout  = time.Minute
	writeTimeout = 2 * time.Minute
	idleTimeout  = 30 * time.Second
)

// Server answers on a control socket.
type Server struct {
	agent Agent
	http  *http.Server
}

// NewServer returns a server that asks agent. It logs what is wrong with
// connections at debug level.
func NewServer(agent Agent, log *slog.Logger) *Server {
	s := &Server{agent: agent}
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: headTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s
}

// Serve answers on l until Shutdown, and then returns nil. It closes l.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown closes the listener and waits for the answers under way; when ctx
// ends first, it cuts them off and returns the context's error.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		return errors.Join(err, s.http.Close())
	}
	return nil
}

// The paths of the control socket.
const (
	pathStatus    = "/v1/status"
	pathFlows     = "/v1/flows"
	pathRules     = "/v1/rules"
	pathPolicy    = "/v1/policy"
	pathExplain   = "/v1/explain"
	pathHostnames = "/v1/hostnames"
	pathDNS       = "/v1/dns"
	pathDNSQuery  = "/v1/dns/query"
	pathReload    = "/v1/reload"
	pathMetrics   = "/metrics"
)

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET "+pathStatus, answer(s.status))
	mux.Handle("GET "+pathFlows, answer(s.flows))
	mux.Handle("GET "+pathRules, answer(s.rules))
	mux.Handle("GET "+pathPolicy, answer(s.policy))
	mux.Handle("GET "+pathExplain, answer(s.explain))
	mux.Handle("GET "+pathHostnames, answer(s.hostnames))
	mux.Handle("GET "+pathDNS, answer(s.dns))
	mux.Handle("POST "+pathDNSQuery, answer(s.dnsQuery))
	mux.Handle("POST "+pathPolicy, answer(s.apply))
	mux.Handle("POST "+pathReload, answer(s.reload))
	mux.Handle("GET "+pathMetrics, s.agent.Metrics())
	mux.Handle("/", answer(func(*http.Request) (any, error) { return nil, errNoPath }))
	return mux
}

func (s *Server) status(r *http.Request) (any, error) {
	status := s.agent.Status(r.Context())
	status.Schema = Schema
	status.DNS = status.DNS.listed()
	status.Packets = status.Packets.listed()
	status.Hooks, status.Channels, status.Warnings = list(status.Hooks), list(status.Channels), list(status.Warnings)
	return status, nil
}

func (s *Server) flows(*http.Request) (any, error) {
	return FlowList{Schema, list(s.agent.Flows())}, nil
}

// list returns what JSON shows as a list, and not as null, when it is empty.
func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

func (s *Server) rules(*http.Request) (any, error) {
	loaded, err := s.agent.Loaded()
	if err != nil {
		return nil, err
	}
	return RuleList{Schema, loaded.Generation, Rules(loaded.Policy)}, nil
}

func (s *Server) policy(*http.Request) (any, error) {
	loaded, err := s.agent.Loaded()
	if err != nil {
		return nil, err
	}
	return loaded.show(), nil
}

func (s *Server) explain(r *http.Request) (any, error) {
	query := r.URL.Query()
	f, err := ParseFlow(query.Get("protocol"), query.Get("destination"))
	if err != nil {
		return nil, &questionError{err}
	}
	inode, err := parseNamespace(query.Get("netns"))
	if err != nil {
		return nil, &questionError{err}
	}
	why, err := s.agent.Explain(r.Context(), f)
	if err != nil {
		return nil, err
	}
	path, err := s.agent.Path(r.Context(), PathQuestion{Flow: f, Verdict: why.Verdict, Namespace: inode})
	return Explained{why, &path}, err
}

func (s *Server) hostnames(*http.Request) (any, error) {
	names := list(s.agent.Hostnames())
	for i := range names {
		names[i].Synthetic = list(names[i].Synthetic)
	}
	return HostnameList{Schema, names}, nil
}

func (s *Server) dns(*http.Request) (any, error) {
	d := s.agent.DNS().listed()
	d.Schema = Schema
	return d, nil
}

func (s *Server) dnsQuery(r *http.Request) (any, error) {
	query := r.URL.Query()
	q, err := ParseQuestion(query.Get("name"), query.Get("type"), query.Get("server"))
	if err != nil {
		return nil, &questionError{err}
	}
	trace, err := s.agent.DNSQuery(r.Context(), q)
	trace.Schema, trace.Hops, trace.Records = Schema, list(trace.Hops), list(trace.Records)
	return trace, err
}

func (s *Server) apply(r *http.Request) (any, error) {
	query := r.URL.Query()
	var profile io.Reader // nil: the configured one again
	if !query.Has("reread") {
		// The agent must not wait for a slow sender while it holds its
		// policy, so the whole profile is here before it begins.
		body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxProfile))
		if err != nil {
			return nil, err
		}
		profile = bytes.NewReader(body)
	}
	applied, err := s.agent.Apply(r.Context(), profile, query.Get("source"))
	applied.Schema, applied.Warnings = Schema, list(applied.Warnings)
	return applied, err
}

func (s *Server) reload(r *http.Request) (any, error) {
	return done{Schema}, s.agent.Reload(r.Context())
}

// done is an answer that says nothing but yes.
type done struct {
	Schema int `json:"schema"`
}

// failure is the answer to a question that was not answered.
type failure struct {
	Schema   int       `json:"schema"`
	Text     string    `json:"error"`
	Problems []Problem `json:"problems,omitempty"`
	Omitted  int       `json:"omitted,omitempty"`
}

var errNoPath = errors.New("no such path on the control socket")

// questionError is a mistake of the asker.
type questionError struct{ error }

// answer makes an HTTP handler of a function that answers or refuses.
func answer(f func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := f(r)
		status := http.StatusOK
		if err != nil {
			status, body = refusal(err)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		// A client that went away is the only error left, and nobody's.
		_ = e.Encode(body)
	})
}

func refusal(err error) (status int, body failure) {
	body = failure{Schema: Schema, Text: err.Error()}
	if rejected, ok := errors.AsType[*RejectedError](err); ok {
		body.Text, body.Problems, body.Omitted = "profile is rejected", rejected.Problems, rejected.Omitted
		return http.StatusUnprocessableEntity, body
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return http.StatusRequestEntityTooLarge, body
	}
	if _, ok := errors.AsType[*questionError](err); ok {
		return http.StatusBadRequest, body
	}
	switch {
	case errors.Is(err, ErrQuestion):
		return http.StatusBadRequest, body
	case errors.Is(err, errNoPath):
		return http.StatusNotFound, body
	case errors.Is(err, ErrNoPolicy):
		return http.StatusServiceUnavailable, body
	}
	return http.StatusInternalServerError, body
}
