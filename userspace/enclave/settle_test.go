package enclave

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/test/testutil"
)

// settled reports whether Settle returned before its time was up.
func settled(t *testing.T, e *Enclave, limit time.Duration) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := e.Settle(ctx); err != nil {
		t.Fatal(err)
	}
	return ctx.Err() == nil
}

func TestSettleWaitsForWhatPeersHaveNotTaken(t *testing.T) {
	e := &Enclave{namespace: testutil.Netns(t)} // where connections need no pair
	if !settled(t, e, 30*time.Second) {
		t.Error("an enclave without sockets does not settle")
	}
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		listener, err := e.Namespace().Listen(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		sender, err := e.Namespace().DialContext(t.Context(), "tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer sender.Close()
		reader, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()

		if err := fill(sender); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("fill the socket: %v", err)
		}
		if settled(t, e, 100*time.Millisecond) {
			t.Errorf("%s: settled while the peer has not taken all", address)
		}
		if err := sender.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, reader); err != nil {
			t.Fatal(err)
		}
		if err := reader.Close(); err != nil {
			t.Fatal(err)
		}
		if !settled(t, e, 30*time.Second) {
			t.Errorf("%s: the peer has taken all, and nothing settles", address)
		}
	}
}

// fill writes until nothing goes any more.
func fill(conn net.Conn) error {
	if err := conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	some := make([]byte, 1<<20)
	for {
		if _, err := conn.Write(some); err != nil {
			return err
		}
	}
}
