package testutil

import (
	"context"
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/bpfacq/bpfacq/userspace/netns"
)

// Netns returns a fresh network namespace with only its loopback link, up.
func Netns(t testing.TB) *netns.Namespace {
	t.Helper()
	Privileged(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// Veth connects two namespaces, as [netns.Veth] does.
func Veth(t testing.TB, a, b netns.End) {
	t.Helper()
	if err := netns.Veth(a, b); err != nil {
		t.Fatal(err)
	}
}

// HostState reads all that could betray a network client in the namespace.
// Compare two readings by their Diff.
func HostState(t testing.TB, ns *netns.Namespace) netns.Snapshot {
	t.Helper()
	Privileged(t)
	if ns == nil {
		current, err := netns.Current()
		if err != nil {
			t.Fatal(err)
		}
		defer current.Close()
		ns = current
	}
	state, err := ns.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// Unchanged fails the test at its end if the namespace's state is not byte for
// byte what it was at the call.
func Unchanged(t testing.TB, ns *netns.Namespace) {
	t.Helper()
	before := HostState(t, ns)
	t.Cleanup(func() {
		if diff := before.Diff(HostState(t, ns)); diff != "" {
			t.Errorf("host state changed:\n%s", diff)
		}
	})
}

// WaitListening returns once a TCP connection to address succeeds, made from
// inside the namespace: programs of others tell by nothing else that they are
// ready.
func WaitListening(t testing.TB, ns *netns.Namespace, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		conn, err := dial(ctx, ns, address)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			t.Fatalf("wait for a listener: %v", err)
		}
	}
}

func dial(ctx context.Context, ns *netns.Namespace, address string) (net.Conn, error) {
	if ns == nil {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "tcp", address)
	}
	return ns.DialContext(ctx, "tcp", address)
}

func listen(ctx context.Context, ns *netns.Namespace, address string) (net.Listener, error) {
	if ns == nil {
		var config net.ListenConfig
		config.SetMultipathTCP(false)
		return config.Listen(ctx, "tcp", address)
	}
	return ns.Listen(ctx, "tcp", address)
}

func start(ns *netns.Namespace, cmd *exec.Cmd) error {
	if ns == nil {
		return cmd.Start()
	}
	return ns.Start(cmd)
}
