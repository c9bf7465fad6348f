package edge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// names is a resolver.
type names map[string][]string

func (n names) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	if network != "ip" {
		return nil, fmt.Errorf("look up network %q", network)
	}
	var addrs []netip.Addr
	for _, a := range n[host] {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	if addrs == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return addrs, nil
}

// dials remembers which addresses are dialed, and answers as told; an address
// without an answer is one that never answers.
type dials struct {
	answers map[string]error
	mu      sync.Mutex
	dialed  []string
	conn    *net.TCPConn
}

func (d *dials) connect(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	d.mu.Lock()
	d.dialed = append(d.dialed, to.String())
	d.mu.Unlock()
	err, known := d.answers[to.Addr().String()]
	if !known {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Err: ctx.Err()}
	}
	if err != nil {
		return nil, err
	}
	return d.conn, nil
}

func newTestDialer(t *testing.T, resolver Resolver, d *dials, rules ...string) *dialer {
	t.Helper()
	allow, err := ParseAllow(rules)
	if err != nil {
		t.Fatal(err)
	}
	d.conn = new(net.TCPConn)
	return &dialer{allow: allow, protected: policy.NeverAcquired(), resolver: resolver, timeout: 10 * time.Second, connect: d.connect}
}

func TestDialReachesWhatIsAllowed(t *testing.T) {
	resolver := names{
		"one.corp.example":    {"192.0.2.1"},
		"mapped.corp.example": {"::ffff:192.0.2.1"},
		"mixed.corp.example":  {"127.0.0.1", "192.0.2.1"},
		"other.example":       {"198.51.100.1", "192.0.2.1"},
	}
	for name, test := range map[string]struct{ rule, authority string }{
		"address":                                     {"192.0.2.0/24:80", "192.0.2.1:80"},
		"name by name rule":                           {"*.corp.example:80", "one.corp.example:80"},
		"name by address rule":                        {"192.0.2.0/24:80", "one.corp.example:80"},
		"name whose address is mapped":                {"*.corp.example:80", "mapped.corp.example:80"},
		"name with a protected address beside":        {"*.corp.example:80", "mixed.corp.example:80"},
		"name with an address that no rule covers":    {"192.0.2.0/24:80", "other.example:80"},
		"mapped address of an IPv4 rule, in IPv6":     {"192.0.2.0/24:80", "[::ffff:192.0.2.1]:80"},
		"everything allowed, the address not special": {"*:*", "192.0.2.1:80"},
	} {
		t.Run(name, func(t *testing.T) {
			d := &dials{answers: map[string]error{"192.0.2.1": nil}}
			conn, refused := newTestDialer(t, resolver, d, test.rule).dial(t.Context(), test.authority)
			if refused != nil || conn != d.conn {
				t.Fatalf("dial = %v, %v", conn, refused)
			}
			if want := []string{"192.0.2.1:80"}; !slices.Equal(d.dialed, want) {
				t.Errorf("dialed %v, want %v", d.dialed, want)
			}
		})
	}
}

func TestDialNeverReachesProtectedDestinations(t *testing.T) {
	for _, addr := range []string{
		"127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.170.2", "224.0.0.1",
		"255.255.255.255", "168.63.129.16", "100.100.100.200",
		"::", "::1", "fe80::1", "ff02::1", "fd00:ec2::254", "fd20:ce::254",
		"::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0.0.0.0",
		"::127.0.0.1",                           // IPv4-compatible
		"64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", // NAT64
		"2002:7f00:1::1", "2002:a9fe:a9fe::1", // 6to4
	} {
		t.Run(addr, func(t *testing.T) {
			for _, authority := range []string{netip.AddrPortFrom(netip.MustParseAddr(addr), 80).String(), "host.example:80"} {
				d := &dials{}
				_, refused := newTestDialer(t, names{"host.example": {addr}}, d, "*:*").dial(t.Context(), authority)
				if refused == nil || refused.status != http.StatusForbidden || refused.reason != reasonProtected {
					t.Errorf("dial(%q) = %+v, want 403 %s", authority, refused, reasonProtected)
				}
				if d.dialed != nil {
					t.Errorf("dialed %v", d.dialed)
				}
			}
		})
	}
}

// rebinding answers with another address at every question.
type rebinding struct{ answers []string }

func (r *rebinding) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	addr := netip.MustParseAddr(r.answers[0])
	r.answers = r.answers[1:]
	return []netip.Addr{addr}, nil
}

func TestDialUsesTheAddressThatItChecked(t *testing.T) {
	d := &dials{answers: map[string]error{"192.0.2.1": nil}}
	resolver := &rebinding{answers: []string{"192.0.2.1", "127.0.0.1"}}
	if _, refused := newTestDialer(t, resolver, d, "*:*").dial(t.Context(), "host.example:80"); refused != nil {
		t.Fatal(refused)
	}
	if want := []string{"192.0.2.1:80"}; !slices.Equal(d.dialed, want) || len(resolver.answers) != 1 {
		t.Errorf("dialed %v after %d lookups, want %v after 1", d.dialed, 2-len(resolver.answers), want)
	}
}

func TestDialSaysWhyNot(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	unreachable := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}
	timeout := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ETIMEDOUT)}
	tests := []struct {
		name, authority string
		answer          error
		status          int
		reason, proxy   string
	}{
		{"not a target", "192.0.2.1", nil, 400, reasonBadAuthority, "http_request_error"},
		{"address not allowed", "198.51.100.1:80", nil, 403, reasonNotAllowed, "http_request_denied"},
		{"port not allowed", "192.0.2.1:81", nil, 403, reasonNotAllowed, "http_request_denied"},
		{"name not allowed", "other.example:80", nil, 403, reasonNotAllowed, "http_request_denied"},
		{"name unknown", "unknown.example:80", nil, 502, reasonName, "dns_error"},
		{"refused", "192.0.2.1:80", refused, 502, reasonDial, "connection_refused"},
		{"unreachable", "192.0.2.1:80", unreachable, 502, reasonDial, "destination_ip_unroutable"},
		{"timed out by the kernel", "192.0.2.1:80", timeout, 504, reasonTimeout, "connection_timeout"},
		{"reset", "192.0.2.1:80", syscall.ECONNRESET, 502, reasonDial, "connection_terminated"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := &dials{answers: map[string]error{"192.0.2.1": test.answer}}
			conn, got := newTestDialer(t, names{"other.example": {"198.51.100.1"}}, d, "192.0.2.1:80").dial(t.Context(), test.authority)
			if got == nil || conn != nil {
				t.Fatalf("dial = %v, %v", conn, got)
			}
			if got.status != test.status || got.reason != test.reason || got.proxy != test.proxy {
				t.Errorf("refusal = %+v, want %d %s %s", got, test.status, test.reason, test.proxy)
			}
		})
	}
}

// slow never answers.
type slow struct{}

func (slow) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestDialGivesUpAfterItsTimeout(t *testing.T) {
	for name, authority := range map[string]string{"connection": "192.0.2.1:80", "resolution": "host.example:80"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				_, refused := newTestDialer(t, slow{}, new(dials), "*:*").dial(t.Context(), authority)
				if refused == nil || refused.status != http.StatusGatewayTimeout || refused.reason != reasonTimeout {
					t.Errorf("dial = %+v, want 504 %s", refused, reasonTimeout)
				}
				if took := time.Since(begun); took != 10*time.Second {
					t.Errorf("took %v, want 10s", took)
				}
			})
		})
	}
}

func TestDialEndsWhenTheClientLeaves(t *testing.T) {
	for name, authority := range map[string]string{"connection": "192.0.2.1:80", "resolution": "host.example:80"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				_, refused := newTestDialer(t, slow{}, new(dials), "*:*").dial(ctx, authority)
				if refused == nil || refused.reason != reasonGone {
					t.Errorf("dial = %+v, want %s", refused, reasonGone)
				}
			})
		})
	}
}

func TestDialTriesTheNextAddress(t *testing.T) {
	resolver := names{"host.example": {"2001:db8::1", "192.0.2.1", "192.0.2.2"}}
	broken := errors.New("broken")
	tests := []struct {
		name    string
		answers map[string]error
		dialed  int
		took    time.Duration
	}{
		{"at once after a failure", map[string]error{"2001:db8::1": broken, "192.0.2.1": nil}, 2, 0},
		{"after the head start of one that is silent", map[string]error{"192.0.2.1": nil}, 2, fallbackDelay},
		{"after two that are silent", map[string]error{"192.0.2.2": nil}, 3, 2 * fallbackDelay},
		{"not when the first answers", map[string]error{"2001:db8::1": nil}, 1, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &dials{answers: test.answers}
				begun := time.Now()
				conn, refused := newTestDialer(t, resolver, d, "*:*").dial(t.Context(), "host.example:80")
				if refused != nil || conn != d.conn {
					t.Fatalf("dial = %v, %v", conn, refused)
				}
				if took := time.Since(begun); took != test.took || len(d.dialed) != test.dialed {
					t.Errorf("dialed %v in %v, want %d in %v", d.dialed, took, test.dialed, test.took)
				}
			})
		})
	}
}

func TestDialTriesNoMoreThanAFewAddresses(t *testing.T) {
	var many []string
	answers := make(map[string]error)
	for i := range 50 {
		addr := fmt.Sprintf("192.0.2.%d", i)
		many = append(many, addr)
		answers[addr] = syscall.ECONNREFUSED
	}
	d := &dials{answers: answers}
	_, refused := newTestDialer(t, names{"host.example": many}, d, "*:*").dial(t.Context(), "host.example:80")
	if refused == nil || refused.status != http.StatusBadGateway || len(d.dialed) != maxAddrs {
		t.Errorf("refusal %+v after %d dials, want 502 after %d", refused, len(d.dialed), maxAddrs)
	}
}
