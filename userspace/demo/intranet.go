package demo

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/bpfacq/bpfacq/userspace/netns"
)

// The ports of the intranet. The sample profile tunnels the first two.
const (
	portWeb   = "80"
	portSSH   = "22"
	portOther = "81"
)

// banner is what an SSH server says first (RFC 4253, section 4.2).
const banner = "SSH-2.0-intranet"

// intranet answers on its ports, on goroutines of its own.
type intranet struct {
	others  atomic.Int64 // connections to portOther
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// openIntranet listens in ns and answers until close.
func openIntranet(ctx context.Context, ns *netns.Namespace) (*intranet, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	in := &intranet{cancel: cancel}
	for _, open := range []struct {
		port  string
		serve func(context.Context, net.Listener)
	}{
		{portWeb, in.serveWeb},
		{portOther, func(ctx context.Context, l net.Listener) { in.serveWeb(ctx, counted{l, &in.others}) }},
		{portSSH, in.serveBanner},
	} {
		l, err := ns.Listen(ctx, "tcp", net.JoinHostPort(intranetAddr, open.port))
		if err != nil {
			in.close()
			return nil, fmt.Errorf("open intranet: %w", err)
		}
		in.running.Go(func() { open.serve(ctx, l) })
	}
	return in, nil
}

func (in *intranet) close() error {
	in.cancel()
	in.running.Wait()
	return nil
}

// serveWeb tells each client who it seems to be.
func (in *intranet) serveWeb(ctx context.Context, l net.Listener) {
	server := &http.Server{
		Handler:  http.HandlerFunc(greet),
		ErrorLog: log.New(io.Discard, "", 0), // clients come and go
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	server.Serve(l)
}

func greet(w http.ResponseWriter, r *http.Request) {
	client, _, _ := net.SplitHostPort(r.RemoteAddr)
	fmt.Fprintf(w, "Hello %s, this is %s.\n", client, r.Context().Value(http.LocalAddrContextKey))
}

// serveBanner says the banner and waits for the client to leave.
func (in *intranet) serveBanner(ctx context.Context, l net.Listener) {
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		in.running.Go(func() {
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			io.WriteString(conn, banner+"\r\n")
			io.Copy(io.Discard, conn)
		})
	}
}

// counted is a listener that counts.
type counted struct {
	net.Listener
	accepted *atomic.Int64
}

// Accept returns the next connection.
func (l counted) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return conn, err
}
