package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// stageOf returns the stage of a *StageError, zero for other errors.
func stageOf(err error) Stage {
	if failure, ok := errors.AsType[*StageError](err); ok {
		return failure.Stage
	}
	return 0
}

func TestErrorsNameTheirStage(t *testing.T) {
	noSuchHost := &net.DNSError{Err: "no such host", Name: "edge.example", IsNotFound: true}
	rows := []struct {
		name  string
		alter func(edge *fakeEdge, o *Options)
		stage Stage
		is    error
	}{
		{"name of the edge unknown", func(edge *fakeEdge, o *Options) {
			edge.refuse = &net.OpError{Op: "dial", Net: "tcp", Err: noSuchHost}
		}, StageResolve, noSuchHost},
		{"nobody listens", func(edge *fakeEdge, o *Options) {
			edge.refuse = &net.OpError{Op: "dial", Net: "tcp", Err: io.ErrNoProgress}
		}, StageDial, io.ErrNoProgress},
		{"unknown authority", func(_ *fakeEdge, o *Options) { o.TLS = &tls.Config{RootCAs: x509.NewCertPool()} }, StageTLS, nil},
		{"certificate of another name", func(_ *fakeEdge, o *Options) { o.ServerName = "other.example" }, StageTLS, nil},
		{"handshake never answered", func(_ *fakeEdge, o *Options) {
			o.Dial = func(context.Context, string, string) (net.Conn, error) { ours, _ := net.Pipe(); return ours, nil }
		}, StageTLS, context.DeadlineExceeded},
		{"authorization with a line break", func(_ *fakeEdge, o *Options) {
			o.Authorization = func() string { return "a\r\nb" }
		}, StageConnect, errAuthorization},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				edge := newFakeEdge("h2")
				o := edge.options()
				row.alter(edge, &o)
				tun := New(o)
				defer tun.Close()
				go func() { // the edge's half of a handshake that fails
					conn, ok := <-edge.dials
					if ok {
						cert, _ := certificate()
						tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}}).Handshake()
					}
				}()
				_, err := tun.Connect(t.Context(), "host.example:443")
				if stageOf(err) != row.stage || !errors.Is(err, row.is) && row.is != nil {
					t.Errorf("error %v", err)
				}
				close(edge.dials)
			})
		})
	}
}

func TestOldTLSIsTakenDownTo12(t *testing.T) {
	for version, good := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		synctest.Test(t, func(t *testing.T) {
			edge := newFakeEdge("h2")
			edge.version = version
			o := edge.options()
			o.TLS.MinVersion = tls.VersionTLS10
			tun := New(o)
			defer tun.Close()
			a := start(t.Context(), tun, "host.example:443")
			if !good {
				cert, _ := certificate()
				tls.Server(<-edge.dials, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS10, MaxVersion: version}).Handshake()
				if synctest.Wait(); stageOf(a.err) != StageTLS {
					t.Errorf("%s: error %v", tls.VersionName(version), a.err)
				}
				return
			}
			p := edge.acceptHTTP2(t)
			defer p.close()
			p.answer(1, false, "200")
			if synctest.Wait(); !a.done || a.err != nil {
				t.Errorf("%s: done %v, error %v", tls.VersionName(version), a.done, a.err)
			}
		})
	}
}

func TestOneDialServesAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge := newFakeEdge("h2")
		tun := New(edge.options())
		defer tun.Close()
		impatient, cancel := context.WithCancel(t.Context())
		first := start(impatient, tun, "a.example:1")
		others := []*attempt{start(t.Context(), tun, "b.example:1"), start(t.Context(), tun, "c.example:1")}
		synctest.Wait()
		cancel()
		synctest.Wait()
		if !errors.Is(first.err, context.Canceled) || stageOf(first.err) != StageDial {
			t.Errorf("error %v", first.err)
		}
		p := edge.acceptHTTP2(t)
		defer p.close()
		for range others {
			p.answer(p.expect(http2.FrameHeaders).StreamID, false, "200")
		}
		synctest.Wait()
		for _, a := range others {
			if !a.done || a.err != nil {
				t.Errorf("done %v, error %v", a.done, a.err)
			}
		}
		if len(edge.dials) != 0 {
			t.Errorf("%d dials more", len(edge.dials))
		}
	})
}

func TestFailedDialFailsAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge := newFakeEdge("h2")
		tun := New(edge.options())
		defer tun.Close()
		attempts := []*attempt{start(t.Context(), tun, "a.example:1"), start(t.Context(), tun, "b.example:1")}
		synctest.Wait()
		(<-edge.dials).Close()
		synctest.Wait()
		for _, a := range attempts {
			if stageOf(a.err) != StageTLS {
				t.Errorf("error %v", a.err)
			}
		}
		if len(edge.dials) != 0 {
			t.Errorf("%d dials more", len(edge.dials))
		}
	})
}

func TestPoolGrowsWithLoadToItsSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge := newFakeEdge("h2")
		o := edge.options()
		o.Connections = 2
		tun := New(o)
		defer tun.Close()
		start(t.Context(), tun, "a.example:1")
		first := edge.acceptHTTP2(t)
		defer first.close()
		if synctest.Wait(); len(edge.dials) != 0 {
			t.Error("a second connection for one stream")
		}
		start(t.Context(), tun, "b.example:1") // goes to the first; the second is for later
		second := edge.acceptHTTP2(t)
		defer second.close()
		for range 4 {
			start(t.Context(), tun, "c.example:1")
			synctest.Wait()
		}
		for name, p := range map[string]*peer{"first": first, "second": second} {
			n := 0
			for _, ok := p.next(http2.FrameHeaders); ok; _, ok = p.next(http2.FrameHeaders) {
				n++
			}
			if n != 3 {
				t.Errorf("the %s connection got %d of 6 streams", name, n)
			}
		}
		if len(edge.dials) != 0 {
			t.Errorf("%d dials more", len(edge.dials))
		}
	})
}

func TestStreamLimitOpensConnectionsThatGoWhenIdle(t *testing.T) {
	limit := http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2}
	synctest.Test(t, func(t *testing.T) {
		edge := newFakeEdge("h2")
		tun := New(edge.options())
		defer tun.Close()
		var attempts []*attempt
		var peers []*peer
		for i := range 5 {
			attempts = append(attempts, start(t.Context(), tun, "a.example:1"))
			if i%2 == 0 {
				peers = append(peers, edge.acceptHTTP2(t, limit))
				defer peers[i/2].close()
			}
			p := peers[i/2]
			p.answer(p.expect(http2.FrameHeaders).StreamID, false, "200")
			synctest.Wait()
		}
		kept := attempts[2].stream // the first on the second connection
		for _, a := range attempts {
			if a.stream != kept {
				a.stream.Close()
			}
		}
		for range 20 {
			time.Sleep(10 * time.Second)
			for _, p := range peers {
				for f, ok := p.next(http2.FramePing); ok; f, ok = p.next(http2.FramePing) {
					p.WritePing(true, [8]byte(f.payload))
				}
			}
		}
		left := 0
		for _, p := range peers {
			if _, ended := p.next(http2.FrameGoAway); !ended {
				left++
			}
		}
		if left != 1 || len(edge.dials) != 0 {
			t.Errorf("%d connections are left, %d dials more", left, len(edge.dials))
		}
		if _, err := kept.Write([]byte("x")); err != nil {
			t.Errorf("the stream that is in use: %v", err)
		}
	})
}

func TestStreamWaitsForALimitThatRises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun, p, _ := open(t, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
		a := start(t.Context(), tun, "b.example:1")
		p.expectNone(http2.FrameHeaders)
		p.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2})
		p.answer(p.expect(http2.FrameHeaders).StreamID, false, "200")
		if synctest.Wait(); !a.done || a.err != nil {
			t.Errorf("done %v, error %v", a.done, a.err)
		}
	})
}

func TestStreamWaitsForOneThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun, p, s := open(t, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
		a := start(t.Context(), tun, "b.example:1")
		p.expectNone(http2.FrameHeaders)
		s.Close()
		p.answer(p.expect(http2.FrameHeaders).StreamID, false, "200")
		if synctest.Wait(); !a.done || a.err != nil {
			t.Errorf("done %v, error %v", a.done, a.err)
		}
	})
}

func TestCloseEndsADialUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge := newFakeEdge("h2")
		tun := New(edge.options())
		a := start(t.Context(), tun, "host.example:443")
		synctest.Wait()
		begin := time.Now()
		tun.Close()
		synctest.Wait()
		if stageOf(a.err) == 0 || time.Since(begin) != 0 {
			t.Errorf("error %v after %v", a.err, time.Since(begin))
		}
		(<-edge.dials).Close()
	})
}

func TestMoreWaitThanOneConnectionTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge := newFakeEdge("h2")
		tun := New(edge.options())
		defer tun.Close()
		begin := time.Now()
		var attempts []*attempt
		for range 2*defaultStreamLimit + 30 {
			attempts = append(attempts, start(t.Context(), tun, "a.example:1"))
		}
		synctest.Wait()
		for range 3 {
			p := edge.acceptHTTP2(t)
			defer p.close()
			for f, ok := p.next(http2.FrameHeaders); ok; f, ok = p.next(http2.FrameHeaders) {
				p.answer(f.StreamID, false, "200")
			}
		}
		synctest.Wait()
		for i, a := range attempts {
			if !a.done || a.err != nil {
				t.Fatalf("attempt %d: done %v, error %v", i, a.done, a.err)
			}
		}
		if len(edge.dials) != 0 || time.Since(begin) != 0 {
			t.Errorf("%d dials more, after %v", len(edge.dials), time.Since(begin))
		}
	})
}

func TestPoolThatCannotGrowPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge := newFakeEdge("h2")
		o := edge.options()
		o.Connections = 2
		dials := 0
		dial := o.Dial
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if dials++; dials > 1 {
				return nil, io.ErrNoProgress
			}
			return dial(ctx, network, address)
		}
		tun := New(o)
		defer tun.Close()
		start(t.Context(), tun, "a.example:1")
		p := edge.acceptHTTP2(t)
		defer p.close()
		for _, row := range []struct {
			after time.Duration
			want  int
		}{{0, 2}, {0, 2}, {dialPause / 2, 2}, {dialPause, 3}} {
			time.Sleep(row.after)
			a := start(t.Context(), tun, "b.example:1")
			if synctest.Wait(); a.done || dials != row.want {
				t.Errorf("after %v more: done %v, error %v, %d dials, want %d", row.after, a.done, a.err, dials, row.want)
			}
		}
	})
}

func TestHandshakeThatNobodyWaitsForIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge := newFakeEdge("http/1.1")
		tun := New(edge.options())
		defer tun.Close()
		ctx, cancel := context.WithCancel(t.Context())
		start(ctx, tun, "a.example:1")
		synctest.Wait()
		cancel()
		conn := edge.accept(t)
		defer conn.Close()
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("the connection stays")
		}
	})
}

func TestCloseEndsAnHTTP1DialUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun := New(Options{Address: "edge.example:80", Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		a := start(t.Context(), tun, "host.example:443")
		synctest.Wait()
		begin := time.Now()
		tun.Close()
		if synctest.Wait(); stageOf(a.err) != StageDial || time.Since(begin) != 0 {
			t.Errorf("error %v after %v", a.err, time.Since(begin))
		}
	})
}
