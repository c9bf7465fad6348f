package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func TestConnectSendsNameAndAuthorization(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge := newFakeEdge("h2")
		o := edge.options()
		o.Authorization = func() string { return "Bearer abc" }
		tun := New(o)
		defer tun.Close()
		a := start(t.Context(), tun, "[2001:db8::1]:443")
		p := edge.acceptHTTP2(t)
		defer p.close()
		f := p.expect(http2.FrameHeaders)
		want := map[string]string{":method": "CONNECT", ":authority": "[2001:db8::1]:443", "proxy-authorization": "Bearer abc"}
		if len(f.fields) != len(want) {
			t.Errorf("fields %v, want %v", f.fields, want)
		}
		for name, value := range want {
			if f.fields[name] != value {
				t.Errorf("%s is %q, want %q", name, f.fields[name], value)
			}
		}
		if f.Flags.Has(http2.FlagHeadersEndStream) {
			t.Error("CONNECT ends its stream")
		}
		p.answer(1, false, "200")
		synctest.Wait()
		if a.err != nil || !a.done {
			t.Fatalf("done %v, error %v", a.done, a.err)
		}
	})
}

func TestLongAuthorizationIsContinued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge := newFakeEdge("h2")
		o := edge.options()
		o.Authorization = func() string { return strings.Repeat("~", 20<<10) }
		tun := New(o)
		defer tun.Close()
		ctx, cancel := context.WithCancel(t.Context())
		a := start(ctx, tun, "host.example:443")
		p := edge.acceptMute(t)
		defer p.close()
		p.WriteSettings()
		synctest.Wait()
		cancel()
		synctest.Wait()
		if !errors.Is(a.err, context.Canceled) {
			t.Errorf("error %v", a.err)
		}
	})
}

func TestAnswersDecideConnect(t *testing.T) {
	rows := []struct {
		name   string
		answer func(p *peer)
		status int // of a RefusedError; zero wants a stream
		body   string
	}{
		{"200", func(p *peer) { p.answer(1, false, "200") }, 0, ""},
		{"204", func(p *peer) { p.answer(1, false, "204") }, 0, ""},
		{"1xx first", func(p *peer) { p.answer(1, false, "100"); p.answer(1, false, "103"); p.answer(1, false, "200") }, 0, ""},
		{"403 without body", func(p *peer) { p.answer(1, true, "403") }, 403, ""},
		{"407", func(p *peer) { p.answer(1, true, "407", "proxy-authenticate", "Bearer") }, 407, ""},
		{"502 with body", func(p *peer) { p.answer(1, false, "502"); p.WriteData(1, true, []byte("no route")) }, 502, "no route"},
		{"503 with endless body", func(p *peer) { p.answer(1, false, "503"); p.WriteData(1, false, bytes.Repeat([]byte("x"), 4000)) }, 503, strings.Repeat("x", snippetLen)},
		{"504 whose body never comes", func(p *peer) { p.answer(1, false, "504") }, 504, ""},
		{"302", func(p *peer) { p.answer(1, true, "302", "location", "/") }, 302, ""},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				edge := newFakeEdge("h2")
				tun := New(edge.options())
				defer tun.Close()
				a := start(t.Context(), tun, "host.example:443")
				p := edge.acceptHTTP2(t)
				defer p.close()
				p.expect(http2.FrameHeaders)
				row.answer(p)
				time.Sleep(time.Second) // of the bubble's time
				synctest.Wait()
				if !a.done {
					t.Fatal("Connect waits on")
				}
				if row.status == 0 {
					if a.err != nil {
						t.Fatal(a.err)
					}
					p.expectNone(http2.FrameRSTStream)
					return
				}
				refused, ok := errors.AsType[*RefusedError](a.err)
				if !ok || refused.Status != row.status || refused.Body != row.body {
					t.Fatalf("error %v with %+v", a.err, refused)
				}
				p.expect(http2.FrameRSTStream) // our half is still open
				p.expectNone(http2.FrameGoAway)
			})
		})
	}
}

func TestConnectGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge := newFakeEdge("h2")
		tun := New(edge.options())
		defer tun.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		a := start(ctx, tun, "host.example:443")
		p := edge.acceptHTTP2(t)
		defer p.close()
		p.expect(http2.FrameHeaders)
		time.Sleep(time.Second)
		synctest.Wait()
		failure, ok := errors.AsType[*StageError](a.err)
		if !ok || failure.Stage != StageConnect || !errors.Is(a.err, context.DeadlineExceeded) {
			t.Fatalf("error %v", a.err)
		}
		if code := p.expectCode(http2.FrameRSTStream); code != http2.ErrCodeCancel {
			t.Errorf("RST_STREAM with %v", code)
		}
		p.answer(1, false, "200") // crosses the reset
		p.WriteData(1, true, []byte("late"))
		p.expectNone(http2.FrameGoAway)
	})
}

func TestHeaderTableOfTheEdgeIsRespected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun, p, _ := open(t, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
		start(t.Context(), tun, "host.example:443")
		f := p.expect(http2.FrameHeaders)
		decoder := hpack.NewDecoder(0, nil)
		decoder.SetAllowedMaxDynamicTableSize(0)
		if fields, err := decoder.DecodeFull(f.payload); err != nil || len(fields) != 2 {
			t.Errorf("fields %v, %v", fields, err)
		}
	})
}

func TestRoundTripIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge := newFakeEdge("h2")
		tun := New(edge.options())
		defer tun.Close()
		start(t.Context(), tun, "host.example:443")
		p := edge.acceptHTTP2(t)
		defer p.close()
		c := tun.pool.conns[0]
		for _, row := range []struct{ wait, want time.Duration }{
			{80 * time.Millisecond, 80 * time.Millisecond},
			{20 * time.Millisecond, 20 * time.Millisecond},
			{time.Second, 20 * time.Millisecond},
		} {
			f := p.expect(http2.FramePing)
			time.Sleep(row.wait)
			p.WritePing(true, [8]byte(f.payload))
			p.WritePing(true, [8]byte(f.payload)) // answers nothing
			synctest.Wait()
			c.mu.Lock()
			if c.rtt != row.want {
				t.Errorf("round trip %v, want %v", c.rtt, row.want)
			}
			c.ping()
			c.kick()
			c.mu.Unlock()
		}
	})
}

func TestConnectionOutOfStreamNumbersIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun, p, s := open(t)
		c := tun.pool.conns[0]
		c.mu.Lock()
		c.nextID = maxStreamID
		c.mu.Unlock()
		last := start(t.Context(), tun, "a.example:1")
		p.answer(p.expect(http2.FrameHeaders).StreamID, false, "200")
		synctest.Wait()
		next := start(t.Context(), tun, "b.example:1")
		second := p.edge.acceptHTTP2(t)
		defer second.close()
		second.answer(second.expect(http2.FrameHeaders).StreamID, false, "200")
		synctest.Wait()
		if last.err != nil || next.err != nil || !next.done {
			t.Errorf("errors %v, %v", last.err, next.err)
		}
		p.expectNone(http2.FrameGoAway)
		s.Close()
		last.stream.Close()
		p.expect(http2.FrameGoAway)
	})
}

func TestPingIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, _ := open(t)
		p.WritePing(false, [8]byte{1, 2, 3})
		f := p.expect(http2.FramePing)
		if !f.Flags.Has(http2.FlagPingAck) || !bytes.Equal(f.payload, []byte{1, 2, 3, 0, 0, 0, 0, 0}) {
			t.Errorf("answer %v %x", f, f.payload)
		}
	})
}

func TestLostConnectionResetsItsStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun, p, s := open(t)
		waiting := start(t.Context(), tun, "other.example:443")
		p.expect(http2.FrameHeaders)
		p.close()
		synctest.Wait()
		_, err := s.Read(make([]byte, 1))
		if !errors.Is(err, ErrReset) || errors.Is(err, io.EOF) {
			t.Errorf("read error %v", err)
		}
		if waiting.done {
			t.Errorf("the unanswered CONNECT did not go elsewhere: %v", waiting.err)
		}
	})
}

func TestTunnelCloseResetsStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun, p, s := open(t)
		tun.Close()
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrReset) || !errors.Is(err, net.ErrClosed) {
			t.Errorf("read error %v", err)
		}
		if _, err := tun.Connect(t.Context(), "host.example:443"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Connect error %v", err)
		}
		if code := p.expectCode(http2.FrameGoAway); code != http2.ErrCodeNo {
			t.Errorf("GOAWAY with %v", code)
		}
	})
}

func TestSilentEdgeIsAskedAndThenLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, s := open(t)
		begin := time.Now()
		_, err := s.Read(make([]byte, 1))
		if !errors.Is(err, ErrReset) || !errors.Is(err, errSilent) {
			t.Errorf("read error %v", err)
		}
		if waited := time.Since(begin); waited < defaultKeepAlive+pingPatience || waited > 2*defaultKeepAlive+pingPatience {
			t.Errorf("left after %v", waited)
		}
		p.expect(http2.FramePing)
		p.expectNone(http2.FrameGoAway) // nobody listens
	})
}

func TestConnectFindsADeadConnectionOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun, p, _ := open(t)
		begin := time.Now()
		a := start(t.Context(), tun, "a.example:1")
		b := start(t.Context(), tun, "b.example:1")
		second := p.edge.acceptHTTP2(t)
		defer second.close()
		for range 2 {
			second.answer(second.expect(http2.FrameHeaders).StreamID, false, "200")
		}
		if synctest.Wait(); !a.done || a.err != nil || !b.done || b.err != nil {
			t.Errorf("errors %v, %v", a.err, b.err)
		}
		if waited := time.Since(begin); waited != answerPatience+pingPatience {
			t.Errorf("found out after %v", waited)
		}
		p.expect(http2.FramePing)
		p.expectNone(http2.FramePing)
	})
}

func TestConnectWaitsForAnEdgeThatIsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun, p, _ := open(t)
		a := start(t.Context(), tun, "slow.example:1")
		id := p.expect(http2.FrameHeaders).StreamID
		for range 20 {
			time.Sleep(9 * time.Second)
			for f, ok := p.next(http2.FramePing); ok; f, ok = p.next(http2.FramePing) {
				p.WritePing(true, [8]byte(f.payload))
			}
		}
		p.answer(id, false, "200")
		if synctest.Wait(); !a.done || a.err != nil {
			t.Errorf("done %v, error %v", a.done, a.err)
		}
	})
}

func TestQuietStreamOfALiveEdgeStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, s := open(t)
		for range 1000 {
			time.Sleep(9 * time.Second)
			for {
				f, ok := p.next(http2.FramePing)
				if !ok {
					break
				}
				p.WritePing(true, [8]byte(f.payload))
			}
		}
		p.WriteData(1, true, []byte("still here"))
		if got, err := io.ReadAll(s); string(got) != "still here" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

func TestStuckEdgeDoesNotHoldClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge := newFakeEdge("h2")
		tun := New(edge.options())
		a := start(t.Context(), tun, "host.example:443")
		conn := edge.accept(t) // and never read from
		defer conn.NetConn().Close()
		synctest.Wait()
		begin := time.Now()
		tun.Close()
		if waited := time.Since(begin); waited > 2*farewellTime {
			t.Errorf("Close took %v", waited)
		}
		synctest.Wait()
		if !errors.Is(a.err, net.ErrClosed) {
			t.Errorf("Connect error %v", a.err)
		}
	})
}

func TestConnectThroughADeafEdgeGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun, p, s := open(t)
		<-p.hearing
		s.Write([]byte("x")) // is the last that the edge hears
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		_, err := tun.Connect(ctx, "host.example:443")
		if waited := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || waited != time.Second {
			t.Errorf("error %v after %v", err, waited)
		}
		p.hearing <- struct{}{}
	})
}
