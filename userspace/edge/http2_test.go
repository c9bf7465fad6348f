package edge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/bpfacq/bpfacq/userspace/tlsrecord"
)

// newTestEdge makes an edge that serves no listener.
func newTestEdge(tb testing.TB) *Edge {
	tb.Helper()
	certificate, err := SelfSigned([]string{"edge.test"}, time.Hour)
	if err != nil {
		tb.Fatal(err)
	}
	e, err := New(Options{Certificate: certificate, Allow: []string{"127.0.0.0/8:*"}, AllowLoopback: true})
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

// servePipe has the edge serve HTTP/2 over a pipe, and returns the client's
// end of it. The channel is closed when the edge is done.
func servePipe(e *Edge) (net.Conn, <-chan struct{}) {
	near, far := net.Pipe()
	listener := limit(nil, 1, e.metrics.connections)
	listener.slots <- struct{}{}
	listener.open.Add(1)
	socket := &accepted{Train: tlsrecord.Train{Conn: far}, listener: listener}
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.serveHTTP2(socket, socket)
	}()
	return near, done
}

func (c *client) goAwayCode() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.goAway == nil {
		return ""
	}
	return c.goAway.String()
}

func TestConnectionWithoutFlowsIsClosedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEdge(t)
		begun := time.Now()
		conn, done := servePipe(e)
		c := newClient(conn)
		<-done
		if took := time.Since(begun); took < e.options.IdleTimeout || took > 2*e.options.IdleTimeout {
			t.Errorf("closed after %v, want %v", took, e.options.IdleTimeout)
		}
		c.close()
		if code := c.goAwayCode(); code != "NO_ERROR" {
			t.Errorf("GOAWAY %q, want NO_ERROR", code)
		}
	})
}

func TestConnectionWithAFlowIsNeverClosedForQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEdge(t)
		// A dial that never ends stands for a flow: sockets would keep the
		// bubble's clock from running.
		e.dialer.timeout = 1000 * time.Hour
		e.dialer.connect = new(dials).connect
		conn, done := servePipe(e)
		c := newClient(conn)
		c.connect("127.0.0.1:80")
		time.Sleep(100 * time.Hour)
		synctest.Wait()
		select {
		case <-done:
			t.Error("the connection is closed")
		default:
		}
		c.close()
		<-done
	})
}

func TestSilentClientIsClosedInTime(t *testing.T) {
	for name, sent := range map[string]string{
		"nothing":        "",
		"half a preface": http2.ClientPreface[:10],
		"preface alone":  http2.ClientPreface,
		"half a frame":   http2.ClientPreface + "\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newTestEdge(t)
				begun := time.Now()
				conn, done := servePipe(e)
				go io.Copy(io.Discard, conn)
				io.WriteString(conn, sent)
				<-done
				conn.Close()
				if took := time.Since(begun); took != e.options.HeaderTimeout {
					t.Errorf("closed after %v, want %v", took, e.options.HeaderTimeout)
				}
			})
		})
	}
}

func TestClientThatNeverReadsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, done := servePipe(newTestEdge(t))
		io.WriteString(conn, http2.ClientPreface)
		framer := http2.NewFramer(conn, nil)
		framer.WriteSettings()
		sent := 0
		for ; sent < 1_000_000; sent++ {
			if framer.WritePing(false, [8]byte{}) != nil {
				break
			}
		}
		<-done
		conn.Close()
		if bytes := sent * 17; bytes > 2*maxControl {
			t.Errorf("the edge kept answers to %d bytes of PING", bytes)
		}
	})
}

// A frame out of place costs the connection or the stream, as RFC 9113 says.
func TestFramesOutOfPlace(t *testing.T) {
	raw := func(kind http2.FrameType, flags http2.Flags, id uint32, payload string) func(*client, uint32) {
		return func(c *client, _ uint32) { c.framer.WriteRawFrame(kind, flags, id, []byte(payload)) }
	}
	onFlow := func(write func(f *http2.Framer, id uint32)) func(*client, uint32) {
		return func(c *client, id uint32) { write(c.framer, id) }
	}
	tests := []struct {
		name          string
		send          func(c *client, flow uint32)
		goAway, reset string
	}{
		{"DATA on an idle stream", raw(http2.FrameData, 0, 99, "x"), "PROTOCOL_ERROR", ""},
		{"DATA on stream 0", raw(http2.FrameData, 0, 0, "x"), "PROTOCOL_ERROR", ""},
		{"DATA with more padding than payload", raw(http2.FrameData, http2.FlagDataPadded, 1, "\xffx"), "PROTOCOL_ERROR", ""},
		{"RST_STREAM on an idle stream", raw(http2.FrameRSTStream, 0, 99, "\x00\x00\x00\x00"), "PROTOCOL_ERROR", ""},
		{"WINDOW_UPDATE on an idle stream", raw(http2.FrameWindowUpdate, 0, 99, "\x00\x00\x00\x01"), "PROTOCOL_ERROR", ""},
		{"WINDOW_UPDATE of 0", raw(http2.FrameWindowUpdate, 0, 0, "\x00\x00\x00\x00"), "PROTOCOL_ERROR", ""},
		{"connection window beyond its maximum", raw(http2.FrameWindowUpdate, 0, 0, "\x7f\xff\xff\xff"), "FLOW_CONTROL_ERROR", ""},
		{"stream window beyond its maximum", onFlow(func(f *http2.Framer, id uint32) { f.WriteWindowUpdate(id, 1<<31-1) }), "", "FLOW_CONTROL_ERROR"},
		{"request on an even stream", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 4, "\x82"), "PROTOCOL_ERROR", ""},
		{"request without method", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 99, ""), "", ""},
		{"header block that is no HPACK", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 99, "\xff\xff\xff\xff\xff\xff"), "COMPRESSION_ERROR", ""},
		{"CONTINUATION alone", raw(http2.FrameContinuation, 0, 1, "\x82"), "PROTOCOL_ERROR", ""},
		{"PUSH_PROMISE", raw(http2.FramePushPromise, http2.FlagPushPromiseEndHeaders, 1, "\x00\x00\x00\x02\x82"), "PROTOCOL_ERROR", ""},
		{"SETTINGS of a wrong length", raw(http2.FrameSettings, 0, 0, "x"), "FRAME_SIZE_ERROR", ""},
		{"SETTINGS with a frame size too small", raw(http2.FrameSettings, 0, 0, "\x00\x05\x00\x00\x00\x01"), "PROTOCOL_ERROR", ""},
		{"SETTINGS with a window too big", raw(http2.FrameSettings, 0, 0, "\x00\x04\x80\x00\x00\x00"), "FLOW_CONTROL_ERROR", ""},
		{"PING of a wrong length", raw(http2.FramePing, 0, 0, "x"), "FRAME_SIZE_ERROR", ""},
		{"frame beyond the maximum", raw(http2.FrameData, 0, 1, strings.Repeat("x", maxReadFrame+1)), "FRAME_SIZE_ERROR", ""},
		{"unknown frame", raw(0xbe, 0, 1, "x"), "", ""},
		{"DATA after END_STREAM", onFlow(func(f *http2.Framer, id uint32) {
			f.WriteData(id, true, nil)
			f.WriteData(id, false, []byte("x"))
		}), "", "STREAM_CLOSED"},
		{"second header without END_STREAM", onFlow(func(f *http2.Framer, id uint32) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0x00, 1, 'a', 1, 'b'}, EndHeaders: true})
		}), "", "PROTOCOL_ERROR"},
		{"more DATA than the stream's window", onFlow(func(f *http2.Framer, id uint32) {
			// Against a destination that takes nothing yet: it is being dialed.
			for range streamWindow/16384 + 1 {
				f.WriteData(id, false, make([]byte, 16384))
			}
		}), "", "FLOW_CONTROL_ERROR"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newTestEdge(t)
				e.dialer.connect = new(dials).connect
				conn, done := servePipe(e)
				c := newClient(conn)
				flow := c.connect("127.0.0.1:80")
				test.send(c, flow.id)
				synctest.Wait()
				if got := c.goAwayCode(); got != test.goAway {
					t.Errorf("GOAWAY %q, want %q", got, test.goAway)
				}
				if got := flow.resetCode(); got != test.reset {
					t.Errorf("RST_STREAM %q, want %q", got, test.reset)
				}
				c.close()
				<-done
			})
		})
	}
}

func TestRequestsThatAreNoPlainConnect(t *testing.T) {
	_, addr, config := serve(t)
	c := dialClient(t, addr, config)
	for name, test := range map[string]struct {
		fields []string
		status string
	}{
		"extended CONNECT":   {[]string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":authority", "edge.test", ":path", "/"}, "501"},
		"CONNECT with path":  {[]string{":method", "CONNECT", ":scheme", "https", ":authority", "127.0.0.1:80", ":path", "/"}, "400"},
		"CONNECT to nothing": {[]string{":method", "CONNECT"}, "400"},
		"header too long":    {[]string{":method", "CONNECT", ":authority", "127.0.0.1:80", "x", strings.Repeat("x", maxHeaderBytes)}, "431"},
	} {
		if status, err := c.request(true, test.fields...).status(); status != test.status {
			t.Errorf("%s: status %s, %v, want %s", name, status, err, test.status)
		}
	}
}

func TestBytesSentBeforeTheAnswerArrive(t *testing.T) {
	target := serveOrigin(t, echo)
	_, addr, config := serve(t)
	s := dialClient(t, addr, config).connect(target)
	io.WriteString(s, "early")
	s.closeWrite()
	if got, err := io.ReadAll(s); err != nil || string(got) != "early" {
		t.Errorf("received %q, %v", got, err)
	}
}

func TestResetDuringTheDialEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEdge(t)
		d := new(dials)
		e.dialer.connect = d.connect
		begun := time.Now()
		conn, done := servePipe(e)
		c := newClient(conn)
		for range 100 {
			c.connect("127.0.0.1:80").reset()
		}
		synctest.Wait()
		if slots := e.slots.Load(); slots != 0 {
			t.Errorf("%d slots are taken", slots)
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("the dials ended after %v, want at once", took)
		}
		c.close()
		<-done
	})
}

// A client that opens and resets cannot have more dials under way than it may
// have streams.
func TestStreamsOverTheLimitAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEdge(t)
		e.options.MaxFlows = 3
		e.dialer.connect = new(dials).connect
		conn, done := servePipe(e)
		c := newClient(conn)
		var codes []string
		var streams []*clientStream
		for range 5 {
			streams = append(streams, c.connect("127.0.0.1:80"))
		}
		synctest.Wait()
		for _, s := range streams {
			codes = append(codes, s.resetCode())
		}
		if want := []string{"", "", "", "REFUSED_STREAM", "REFUSED_STREAM"}; !slices.Equal(codes, want) {
			t.Errorf("resets %q, want %q", codes, want)
		}
		c.close()
		<-done
	})
}

func TestManyFlowsShareAConnection(t *testing.T) {
	const flows, size = 100, 50_000
	target := serveOrigin(t, echo)
	e, addr, config := serve(t)
	c := dialClient(t, addr, config)
	var wg sync.WaitGroup
	for i := range flows {
		wg.Go(func() {
			if err := roundTrip(c.connect(target), uint64(i), size); err != nil {
				t.Errorf("flow %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if slots := e.slots.Load(); slots != 0 {
		t.Errorf("%d slots are taken after the last flow", slots)
	}
}

// roundTrip sends random bytes in pieces of random length, and wants them back.
func roundTrip(flow testFlow, seed uint64, size int) error {
	random := rand.New(rand.NewPCG(seed, 0))
	sent := make([]byte, size)
	for i := range sent {
		sent[i] = byte(random.Uint32())
	}
	failed := make(chan error, 1)
	go func() {
		for p := sent; len(p) > 0; {
			n, err := flow.Write(p[:1+random.IntN(min(len(p), 20_000))])
			if err != nil {
				failed <- err
				return
			}
			p = p[n:]
		}
		flow.closeWrite()
		failed <- nil
	}()
	received, err := io.ReadAll(flow)
	err = errors.Join(err, <-failed)
	if err == nil && !bytes.Equal(received, sent) {
		err = fmt.Errorf("received %d other bytes than the %d sent", len(received), len(sent))
	}
	return err
}

func FuzzConnectionSurvivesAnyBytes(f *testing.F) {
	var frames bytes.Buffer
	framer := http2.NewFramer(&frames, nil)
	framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
	framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("\x42\x07CONNECT\x41\x0b127.0.0.1:1"), EndHeaders: true})
	framer.WriteData(1, false, []byte("abc"))
	framer.WriteWindowUpdate(1, 1000)
	framer.WritePing(false, [8]byte{})
	framer.WriteRSTStream(1, http2.ErrCodeCancel)
	f.Add(frames.Bytes())
	framer.WriteGoAway(0, http2.ErrCodeNo, nil)
	f.Add(frames.Bytes())
	e := newTestEdge(f)
	e.dialer.connect = new(dials).connect
	f.Fuzz(func(t *testing.T, p []byte) {
		conn, done := servePipe(e)
		go io.Copy(io.Discard, conn)
		io.WriteString(conn, http2.ClientPreface)
		conn.Write(p)
		conn.Close()
		<-done
		if slots := e.slots.Load(); slots != 0 {
			t.Errorf("%d slots are taken after the connection", slots)
		}
	})
}
