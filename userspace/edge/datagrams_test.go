package edge

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// serveUDP answers each datagram with those that answer returns.
func serveUDP(tb testing.TB, network string, answer func([]byte) [][]byte) string {
	tb.Helper()
	conn, err := net.ListenPacket(network, map[string]string{"udp4": "127.0.0.1:0", "udp6": "[::1]:0"}[network])
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		p := make([]byte, 64<<10)
		for {
			n, from, err := conn.ReadFrom(p)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			for _, q := range answer(p[:n]) {
				conn.WriteTo(q, from)
			}
		}
	})
	tb.Cleanup(func() {
		conn.Close()
		wg.Wait()
	})
	return conn.LocalAddr().String()
}

func echoUDP(p []byte) [][]byte { return [][]byte{p} }

func TestDatagramsOfAllSizesGoBothWays(t *testing.T) {
	for _, network := range []string{"udp4", "udp6"} {
		t.Run(network, func(t *testing.T) {
			eachDatagramProtocol(t, func(t *testing.T, open func(string) (testDatagrams, *Edge)) {
				flow, _ := open(serveUDP(t, network, echoUDP))
				for i, size := range []int{0, 1, 62, 63, 64, 1200, 1472, 4000, 9000, 16383, 16384, 65000, 65507} {
					sent := bytes.Repeat([]byte{byte(i + 1)}, size)
					if err := flow.send(sent); err != nil {
						t.Fatal(err)
					}
					if got, err := flow.receive(); err != nil || !bytes.Equal(got, sent) {
						t.Fatalf("%d bytes: received %d, %v", size, len(got), err)
					}
				}
			})
		})
	}
}

// A destination's burst keeps its borders, whatever trains the kernel makes of it.
func TestDatagramsKeepTheirBorders(t *testing.T) {
	sizes := []int{1000, 1000, 1000, 500, 0, 700, 700, 1200, 1, 1, 1}
	burst := func([]byte) (answer [][]byte) {
		for i, size := range sizes {
			answer = append(answer, bytes.Repeat([]byte{byte(i)}, size))
		}
		return answer
	}
	eachDatagramProtocol(t, func(t *testing.T, open func(string) (testDatagrams, *Edge)) {
		flow, _ := open(serveUDP(t, "udp4", burst))
		flow.send(nil)
		for i, size := range sizes {
			if got, err := flow.receive(); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{byte(i)}, size)) {
				t.Fatalf("datagram %d: %d bytes, %v, want %d", i, len(got), err, size)
			}
		}
	})
}

func TestQuietFlowOfDatagramsEnds(t *testing.T) {
	eachDatagramProtocol(t, func(t *testing.T, open func(string) (testDatagrams, *Edge)) {
		flow, e := open(serveUDP(t, "udp4", echoUDP))
		if err := flow.awaitEnd(); err != nil {
			t.Errorf("end of the flow: %v", err)
		}
		for e.slots.Load() > 0 {
			if t.Context().Err() != nil {
				t.Fatal("the slot is still taken")
			}
		}
	}, func(o *Options) { o.UDPIdleTimeout = time.Millisecond })
}

func TestClientEndsItsFlowOfDatagrams(t *testing.T) {
	eachDatagramProtocol(t, func(t *testing.T, open func(string) (testDatagrams, *Edge)) {
		flow, e := open(serveUDP(t, "udp4", echoUDP))
		flow.finish()
		if err := flow.awaitEnd(); err != nil {
			t.Errorf("end of the flow: %v", err)
		}
		for e.slots.Load() > 0 {
			if t.Context().Err() != nil {
				t.Fatal("the slot is still taken")
			}
		}
	})
}

// A port that is closed now, as ICMP says, may be open for the next datagram.
func TestRefusedDatagramsDoNotEndAFlow(t *testing.T) {
	eachDatagramProtocol(t, func(t *testing.T, open func(string) (testDatagrams, *Edge)) {
		conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		target := conn.LocalAddr().String()
		conn.Close()
		flow, _ := open(target)
		for range 3 {
			flow.send([]byte("nobody"))
		}
		if conn, err = net.ListenPacket("udp4", target); err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		var wg sync.WaitGroup
		wg.Go(func() {
			p := make([]byte, 100)
			for {
				n, from, err := conn.ReadFrom(p)
				if err != nil {
					return
				}
				conn.WriteTo(p[:n], from)
			}
		})
		flow.send([]byte("somebody"))
		got, err := flow.receive()
		for err == nil && string(got) == "nobody" {
			got, err = flow.receive()
		}
		if err != nil || string(got) != "somebody" {
			t.Errorf("received %q, %v", got, err)
		}
		conn.Close()
		wg.Wait()
	})
}

func TestDrainingEndsQuietFlowsOfDatagrams(t *testing.T) {
	eachDatagramProtocol(t, func(t *testing.T, open func(string) (testDatagrams, *Edge)) {
		flow, e := open(serveUDP(t, "udp4", echoUDP))
		flow.send([]byte("x"))
		flow.receive()
		begun := time.Now()
		e.Close()
		if took := time.Since(begun); took > time.Minute {
			t.Errorf("the edge closed after %v", took)
		}
	}, func(o *Options) { o.DrainTimeout = time.Hour })
}

func TestDrainTimeoutEndsBusyFlowsOfDatagrams(t *testing.T) {
	eachDatagramProtocol(t, func(t *testing.T, open func(string) (testDatagrams, *Edge)) {
		flow, e := open(serveUDP(t, "udp4", echoUDP))
		var wg sync.WaitGroup
		wg.Go(func() {
			for flow.send([]byte("x")) == nil {
				if _, err := flow.receive(); err != nil {
					return
				}
			}
		})
		e.Close()
		wg.Wait()
		if n := e.slots.Load(); n != 0 {
			t.Errorf("%d slots are taken", n)
		}
	})
}

func TestEdgeAnswersWhatBecomesNoFlowOfDatagrams(t *testing.T) {
	target := serveUDP(t, "udp4", echoUDP)
	tests := []struct {
		name, path, token string
		status            int
		proxyStatus       string
	}{
		{"destination not allowed", udpTarget("192.0.2.1:53"), "secret", 403, "bpfacq; error=http_request_denied"},
		{"allowed for TCP alone", udpTarget("127.0.0.2:53"), "secret", 403, "bpfacq; error=http_request_denied"},
		{"metadata service", udpTarget("169.254.169.254:53"), "secret", 403, "bpfacq; error=destination_ip_prohibited"},
		{"metadata service, IPv4-mapped", udpTarget("[::ffff:169.254.169.254]:53"), "secret", 403, "bpfacq; error=destination_ip_prohibited"},
		{"name of the metadata service", udpTarget("metadata.corp.example:53"), "secret", 403, "bpfacq; error=destination_ip_prohibited"},
		{"unknown name", udpTarget("unknown.corp.example:53"), "secret", 502, "bpfacq; error=dns_error"},
		{"broadcast", udpTarget("127.255.255.255:53"), "secret", 502, "bpfacq; error=connection_terminated"},
		{"no token", udpTarget(target), "", 407, "bpfacq; error=http_request_denied"},
		{"port 0", udpTarget("127.0.0.1:0"), "secret", 400, ""},
		{"no port", udpPath + "127.0.0.1/", "secret", 400, ""},
		{"host of blanks", udpPath + "%20/53/", "secret", 400, "bpfacq; error=http_request_error"},
		{"another template", "/masque?h=127.0.0.1&p=53", "secret", 400, ""},
	}
	_, addr, config := serve(t, func(o *Options) {
		o.HTTP3 = true
		o.Token = "secret"
		o.Allow = []string{"127.0.0.1:*/udp", "127.255.255.255:*", "127.0.0.2:*/tcp", "169.254.0.0/16:*", "*.corp.example:*"}
		o.Resolver = names{"metadata.corp.example": {"169.254.169.254"}}
	})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := dialClient(t, addr, config).connectUDP(test.path, "proxy-authorization", "Bearer "+test.token)
			status, err := s.status()
			if status != fmt.Sprint(test.status) || s.fields["proxy-status"] != test.proxyStatus {
				t.Errorf("h2: status %s, %v, %v, want %d with %q", status, s.fields, err, test.status, test.proxyStatus)
			}
			request := connectUDPRequest(test.path)
			request.Header.Set("Proxy-Authorization", "Bearer "+test.token)
			f := request3(t, addr, config, request)
			if f.response.StatusCode != test.status || f.response.Header.Get("Proxy-Status") != test.proxyStatus {
				t.Errorf("h3: response %v, want %d with %q", f.response, test.status, test.proxyStatus)
			}
			f.reset()
		})
	}
}

func TestMetricsCountDatagrams(t *testing.T) {
	const want = `
# HELP bpfacq_edge_bytes_total Bytes carried between clients and destinations; sent is towards the destination.
# TYPE bpfacq_edge_bytes_total counter
bpfacq_edge_bytes_total{direction="received"} 8
bpfacq_edge_bytes_total{direction="sent"} 4
# HELP bpfacq_edge_datagrams_dropped_total UDP datagrams that a socket or a tunnel did not take at once.
# TYPE bpfacq_edge_datagrams_dropped_total counter
bpfacq_edge_datagrams_dropped_total 0
# HELP bpfacq_edge_datagrams_total UDP datagrams carried between clients and destinations; sent is towards the destination.
# TYPE bpfacq_edge_datagrams_total counter
bpfacq_edge_datagrams_total{direction="received"} 2
bpfacq_edge_datagrams_total{direction="sent"} 1
# HELP bpfacq_edge_flows_total Flows that clients asked for, by protocol (tcp or udp), verdict (pass or block) and its reason.
# TYPE bpfacq_edge_flows_total counter
bpfacq_edge_flows_total{protocol="udp",reason="allowed",verdict="pass"} 1
`
	for name, open := range datagramProtocols {
		t.Run(name, func(t *testing.T) {
			registry := prometheus.NewPedanticRegistry()
			target := serveUDP(t, "udp4", func(p []byte) [][]byte { return [][]byte{p, p} })
			e, addr, config := serve(t, speaking(name), func(o *Options) { o.Metrics = registry })
			flow := open(t, addr, config, target)
			flow.send([]byte("ping"))
			for range 2 {
				if _, err := flow.receive(); err != nil {
					t.Fatal(err)
				}
			}
			flow.finish()
			e.Close()
			if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "bpfacq_edge_flows_total",
				"bpfacq_edge_bytes_total", "bpfacq_edge_datagrams_total", "bpfacq_edge_datagrams_dropped_total"); err != nil {
				t.Error(err)
			}
			if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) != 0 {
				t.Errorf("promlint: %v, %v", problems, err)
			}
		})
	}
}
