package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/bpfacq/bpfacq/userspace/config"
	"github.com/bpfacq/bpfacq/userspace/edge"
)

// leastUDPIdle is what applications that keep a mapping of a NAT alive count
// on, RFC 4787 section 4.3.
const leastUDPIdle = 2 * time.Minute

// edgeFlags is what the command line says of an edge.
type edgeFlags struct {
	listen, certificate, key, token, metrics string
	allow                                    []string
	http3, preferHTTP3                       bool
	udpIdle                                  time.Duration
}

func newEdge(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "edge",
		Short: "Run a small edge",
		Long: `Edge runs the far end of the tunnel: it accepts HTTP CONNECT and, for UDP,
CONNECT-UDP over TLS (HTTP/2; HTTP/1.1 without UDP), resolves names, and reaches the
destinations that --allow names, until SIGINT or SIGTERM. Loopback, link-local and
metadata addresses are always refused.

With --http3 it speaks HTTP/3 too, on the UDP port of the same number, which firewalls
must let through. Clients then send their UDP that way, without one lost packet holding
up the next; with --prefer-http3 their TCP as well.

A destination is HOST:PORTS or HOST:PORTS/PROTOCOL: HOST is a name, "*." and a name, an
address, a prefix or "*", with IPv6 in brackets; PORTS is a list such as
22,443,8000-8999, or "*"; PROTOCOL is tcp or udp, and without it both are allowed.`,
		Example: `  bpfacq edge --certificate edge.pem --key edge.key --allow 192.168.11.0/24:22,80,443
  bpfacq edge --certificate edge.pem --key edge.key --allow '*.corp.example:*' --allow '[2001:db8::/32]:443'
  bpfacq edge --certificate edge.pem --key edge.key --http3 --allow '*:443' --allow 192.168.11.53:53/udp`,
		Args: operands,
	}
	var f edgeFlags
	cmd.Flags().StringVar(&f.listen, "listen", ":8443", "TCP `address` to listen on")
	cmd.Flags().StringVar(&f.certificate, "certificate", "", "PEM `file` with the certificate chain")
	cmd.Flags().StringVar(&f.key, "key", "", "PEM `file` with the private key")
	cmd.Flags().StringArrayVar(&f.allow, "allow", nil, "`destination` that flows may have; repeat for more")
	cmd.Flags().BoolVar(&f.http3, "http3", false, "speak HTTP/3 too, on the UDP port of the same number")
	cmd.Flags().BoolVar(&f.preferHTTP3, "prefer-http3", false, "ask clients to use HTTP/3 for TCP as well; implies --http3")
	cmd.Flags().DurationVar(&f.udpIdle, "udp-idle", 3*time.Minute, "`time` without a datagram after which a flow of UDP ends, 2m or more")
	cmd.Flags().StringVar(&f.token, "token-file", "", "`file` with the bearer token that clients must present")
	cmd.Flags().StringVar(&f.metrics, "metrics", "", "`address` that serves Prometheus metrics at /metrics")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if f.certificate == "" || f.key == "" || len(f.allow) == 0 {
			return &usageError{fmt.Sprintf("%q needs --certificate, --key and --allow", cmd.CommandPath()), forExample(cmd)}
		}
		if _, err := edge.ParseAllow(f.allow); err != nil {
			return &usageError{err.Error(), forExample(cmd)}
		}
		if f.udpIdle < leastUDPIdle {
			return &usageError{fmt.Sprintf("--udp-idle %v is shorter than %v", f.udpIdle, leastUDPIdle), forExample(cmd)}
		}
		return e.serveEdge(cmd.Context(), f)
	}
	return cmd
}

// serveEdge runs an edge, and its metrics beside it, until ctx is done.
func (e *env) serveEdge(ctx context.Context, f edgeFlags) error {
	certificate, err := tls.LoadX509KeyPair(f.certificate, f.key)
	if err != nil {
		return fmt.Errorf("load certificate: %w", err)
	}
	token, err := (&config.Edges{TokenFile: f.token}).Token()
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	log, flush := e.logger(formatAuto, slog.LevelInfo)
	defer flush()
	server, err := edge.New(edge.Options{
		Listen:      f.listen,
		Certificate: certificate,
		Allow:       f.allow,
		Token:       token,
		Metrics:     registry,
		Log:         log,

		HTTP3:          f.http3 || f.preferHTTP3,
		PreferHTTP3:    f.preferHTTP3,
		UDPIdleTimeout: f.udpIdle,
	})
	if err != nil {
		return err
	}
	tunnels, err := server.Listen(ctx)
	if err != nil {
		return err
	}
	log.Info("edge listens", slog.Bool("http3", f.http3 || f.preferHTTP3), slog.String("address", tunnels.Addr().String()))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Serve(ctx, tunnels) })
	if f.metrics != "" {
		group.Go(func() error { return serveMetrics(ctx, f.metrics, registry, log) })
	}
	return group.Wait()
}

// serveMetrics answers at /metrics until ctx is done.
func serveMetrics(ctx context.Context, address string, gatherer prometheus.Gatherer, log *slog.Logger) error {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	log.Info("metrics are served", slog.String("address", l.Addr().String()))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}
