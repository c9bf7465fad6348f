package agent

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/bpfacq/bpfacq/userspace/config"
)

// errRestart says that a changed key takes effect only at a start.
var errRestart = errors.New("takes effect only when the agent starts")

// Reload implements control.Agent: it reads the configuration and the profile
// again, and puts both in force or neither.
func (a *Agent) Reload(context.Context) error {
	a.apply.Lock()
	defer a.apply.Unlock()
	a.notices.reloading()
	err := a.reload()
	a.notices.reloaded(a.summary(), err)
	return err
}

// reload is Reload for a caller that holds a.apply.
func (a *Agent) reload() error {
	current, next := a.config.Load(), a.config.Load()
	if a.opts.Reread != nil {
		var err error
		if next, err = a.opts.Reread(); err != nil {
			return err
		}
	}
	var restart []string
	for _, change := range current.Changes(next) {
		if change.Restart {
			restart = append(restart, change.Key)
		}
	}
	if len(restart) > 0 {
		return fmt.Errorf("change %s: %w", strings.Join(restart, ", "), errRestart)
	}

	raw, err := os.ReadFile(next.Profile)
	if err != nil {
		return fmt.Errorf("read profile: %w", err)
	}
	if _, err := a.applyRaw(raw, next.Profile, next); err != nil {
		return err
	}
	a.config.Store(next)
	if a.opts.LogLevel != nil {
		a.opts.LogLevel.Set(next.Log.Level)
	}
	a.log.Info("reloaded", slog.Uint64("generation", uint64(a.loaded.Load().Generation)))
	return nil
}

// credentials are what channels present to edges, and what they trust.
type credentials struct {
	roots         *x509.CertPool // nil is the system's
	authorization string         // value of Proxy-Authorization, or empty
	digest        string         // of both, to notice that one has changed
}

func newCredentials(edges *config.Edges) (*credentials, error) {
	roots, err := edges.Roots()
	if err != nil {
		return nil, err
	}
	token, err := edges.Token()
	if err != nil {
		return nil, err
	}
	c := &credentials{roots: roots}
	if token != "" {
		c.authorization = "Bearer " + token
	}
	digest := sha256.New()
	digest.Write([]byte(token))
	if edges.CAFile != "" {
		pem, err := os.ReadFile(edges.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read CA file: %w", err)
		}
		digest.Write(pem)
	}
	c.digest = hex.EncodeToString(digest.Sum(nil))
	return c, nil
}
