package config

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
)

// Errors of the files that the configuration names.
var (
	ErrTokenExposed = errors.New("token file is open to group or others")
	ErrTokenForm    = errors.New("token file does not hold one line of visible ASCII")
	ErrNoRoots      = errors.New("no PEM certificate in CA file")
)

// maxToken bounds a bearer token: servers refuse header lines above 8 to 16 KB.
const maxToken = 16 << 10

// Token reads the bearer token, or returns "" when no token file is
// configured. The error matches [ErrTokenExposed] when others than the owner
// may read the file, and never holds what is in it.
func (e *Edges) Token() (string, error) {
	if e.TokenFile == "" {
		return "", nil
	}
	f, err := os.Open(e.TokenFile)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	defer f.Close()
	// The mode is asked of the open file, so that it is the mode of what is read.
	stat, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	if mode := stat.Mode().Perm(); mode&0o077 != 0 {
		return "", fmt.Errorf("read token %q of mode %#o: %w", e.TokenFile, mode, ErrTokenExposed)
	}
	token, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	token = bytes.TrimSpace(token)
	if len(token) == 0 || len(token) > maxToken || bytes.ContainsFunc(token, notVisible) {
		return "", fmt.Errorf("read token %q: %w", e.TokenFile, ErrTokenForm)
	}
	return string(token), nil
}

// notVisible reports what must not stand in a credential (RFC 9110, 5.5 and
// 11.4): a line break would begin another header.
func notVisible(r rune) bool { return r <= ' ' || r > '~' }

// Roots reads the roots that edges are verified against; nil means the
// system's.
func (e *Edges) Roots() (*x509.CertPool, error) {
	if e.CAFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(e.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read CA file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read CA file %q: %w", e.CAFile, ErrNoRoots)
	}
	return pool, nil
}
