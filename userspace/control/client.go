package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
)

// maxAnswer bounds what a client reads: a million rules' destinations are about
// 60 MB.
const maxAnswer = 512 << 20

// Client asks an agent. It keeps no connection between two questions.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a client for the agent that answers at a socket.
func NewClient(socket string) *Client {
	var dialer net.Dialer // without a limit: the kernel answers at once
	return &Client{socket, &http.Client{
		Timeout: writeTimeout,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, "unix", socket)
			},
		},
	}}
}

// UnreachableError says that no agent answers at a socket. Err is or wraps the
// errno: ENOENT and ECONNREFUSED when none runs, EACCES when the caller may
// not ask.
type UnreachableError struct {
	Socket string
	Err    error
}

// Error names the socket and the cause.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("reach the agent at %s: %v", e.Socket, e.Err)
}

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// RefusedError is the agent's refusal to answer.
type RefusedError struct {
	Status int // of HTTP
	Text   string
}

// Error returns the agent's own words.
func (e *RefusedError) Error() string { return e.Text }

// Is matches [ErrNoPolicy] and [ErrQuestion] when that is why the agent refused.
func (e *RefusedError) Is(target error) bool {
	return target == ErrNoPolicy && e.Status == http.StatusServiceUnavailable ||
		target == ErrQuestion && e.Status == http.StatusBadRequest
}

// Status asks for the agent's state.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return ask[Status](ctx, c, http.MethodGet, pathStatus, nil, nil)
}

// Flows asks for the live flows and the recently ended ones.
func (c *Client) Flows(ctx context.Context) (FlowList, error) {
	return ask[FlowList](ctx, c, http.MethodGet, pathFlows, nil, nil)
}

// Rules asks for the rules of the loaded policy. The error matches ErrNoPolicy
// when none is loaded.
func (c *Client) Rules(ctx context.Context) (RuleList, error) {
	return ask[RuleList](ctx, c, http.MethodGet, pathRules, nil, nil)
}

// Policy asks for the loaded policy without its rules. The error matches
// ErrNoPolicy when none is loaded.
func (c *Client) Policy(ctx context.Context) (PolicyAnswer, error) {
	return ask[PolicyAnswer](ctx, c, http.MethodGet, pathPolicy, nil, nil)
}

// Explain asks what the loaded tables decide for a flow of the host, in the form
// that [ParseFlow] reads, and by which way it goes.
func (c *Client) Explain(ctx context.Context, protocol, destination string) (Explained, error) {
	return c.ExplainFrom(ctx, 0, protocol, destination)
}

// ExplainFrom is Explain for a flow that comes from the network namespace with
// this inode, or from the host's own if it is 0.
func (c *Client) ExplainFrom(ctx context.Context, namespace uint64, protocol, destination string) (Explained, error) {
	query := url.Values{"protocol": {protocol}, "destination": {destination}}
	if namespace != 0 {
		query.Set("netns", strconv.FormatUint(namespace, 10))
	}
	return ask[Explained](ctx, c, http.MethodGet, pathExplain, query, nil)
}

// Hostnames asks for the names that were asked for, and those that hold
// synthetic addresses.
func (c *Client) Hostnames(ctx context.Context) (HostnameList, error) {
	return ask[HostnameList](ctx, c, http.MethodGet, pathHostnames, nil, nil)
}

// DNS asks how queries are taken and answered.
func (c *Client) DNS(ctx context.Context) (DNS, error) {
	return ask[DNS](ctx, c, http.MethodGet, pathDNS, nil, nil)
}

// DNSQuery has the agent ask a query, in the form that [ParseQuestion] reads.
// An answer that is an error is no error here. The error matches ErrQuestion
// when the agent does not know the type.
func (c *Client) DNSQuery(ctx context.Context, name, kind, server string) (Trace, error) {
	query := url.Values{"name": {name}, "type": {kind}, "server": {server}}
	return ask[Trace](ctx, c, http.MethodPost, pathDNSQuery, query, nil)
}

// Apply has the agent load a profile, or the configured one again when profile
// is nil. A profile that the agent rejects is a *RejectedError.
func (c *Client) Apply(ctx context.Context, profile io.Reader, source string) (Applied, error) {
	if profile == nil {
		return ask[Applied](ctx, c, http.MethodPost, pathPolicy, url.Values{"reread": {"yes"}}, nil)
	}
	// The server hangs up on a body that is too long, and what the sender
	// then sees is a matter of timing. So it is never sent.
	body, err := io.ReadAll(io.LimitReader(profile, maxProfile+1))
	if err != nil {
		return Applied{}, fmt.Errorf("read profile: %w", err)
	}
	if len(body) > maxProfile {
		return Applied{}, &RejectedError{Problems: []Problem{{
			Value: fmt.Sprintf("more than %d bytes", maxProfile),
			Want:  fmt.Sprintf("at most %d bytes", maxProfile),
		}}}
	}
	return ask[Applied](ctx, c, http.MethodPost, pathPolicy, url.Values{"source": {source}}, bytes.NewReader(body))
}

// Reload has the agent read its configuration and profile again.
func (c *Client) Reload(ctx context.Context) error {
	_, err := ask[done](ctx, c, http.MethodPost, pathReload, nil, nil)
	return err
}

// ask sends one question and decodes the answer.
func ask[T any](ctx context.Context, c *Client, method, path string, query url.Values, body io.Reader) (T, error) {
	var answer, none T
	place := url.URL{Scheme: "http", Host: "bpfacq", Path: path, RawQuery: query.Encode()}
	r, err := http.NewRequestWithContext(ctx, method, place.String(), body)
	if err != nil {
		return none, fmt.Errorf("ask the agent: %w", err)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return none, c.unanswered(err)
	}
	defer resp.Body.Close()
	d := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode != http.StatusOK {
		return none, refused(resp.StatusCode, d)
	}
	if err := d.Decode(&answer); err != nil {
		return none, fmt.Errorf("read the agent's answer: %w", err)
	}
	return answer, nil
}

// unanswered tells an agent that was not reached from one that went silent.
// The words of net/http around it would name a URL that nobody typed.
func (c *Client) unanswered(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		cause := e.Err
		if inner := errors.Unwrap(cause); inner != nil {
			cause = inner // os.SyscallError's errno
		}
		return &UnreachableError{c.socket, cause}
	}
	return fmt.Errorf("ask the agent at %s: %w", c.socket, err)
}

func refused(status int, d *json.Decoder) error {
	var f failure
	if err := d.Decode(&f); err != nil {
		return fmt.Errorf("read the agent's refusal, status %d: %w", status, err)
	}
	if status == http.StatusUnprocessableEntity {
		return &RejectedError{f.Problems, f.Omitted}
	}
	return &RefusedError{status, f.Text}
}
