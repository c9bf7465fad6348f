package control

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// hungAgent never says how it is.
type hungAgent struct {
	*fakeAgent
	asked chan struct{}
}

func (a hungAgent) Status(ctx context.Context) Status {
	close(a.asked)
	<-ctx.Done()
	return Status{}
}

func TestShutdownCutsOffAnAnswerThatHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	agent := hungAgent{&fakeAgent{}, make(chan struct{})}
	s := NewServer(agent, slog.New(slog.DiscardHandler))
	served, asked := make(chan error, 1), make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	go func() {
		_, err := NewClient(path).Status(t.Context())
		asked <- err
	}()
	<-agent.asked
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v, want the end of its context", err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := <-asked; err == nil || !strings.HasPrefix(err.Error(), "ask the agent at ") {
		t.Errorf("Status: %v, want an answer that was cut off", err)
	}
}

// Whoever answers at the socket may be something else than an agent.
func TestClientNamesWhatItDoesNotUnderstand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	status := http.StatusOK
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, "<html>")
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() {
		server.Close()
		<-served
	}()
	for _, test := range []struct {
		status int
		want   string
	}{
		{http.StatusOK, "read the agent's answer: "},
		{http.StatusBadGateway, "read the agent's refusal, status 502: "},
	} {
		status = test.status
		got, err := NewClient(path).Rules(t.Context())
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("status %d: %v, want %q", test.status, err, test.want)
		}
		if got.Rules != nil {
			t.Errorf("status %d: %+v beside its error", test.status, got)
		}
	}
}
