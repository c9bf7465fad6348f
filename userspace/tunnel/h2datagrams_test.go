package tunnel

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"

	"github.com/bpfacq/bpfacq/userspace/capsule"
)

var extendedConnect = http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1}

// asking is a ConnectUDP under way.
type asking struct {
	datagrams Datagrams
	err       error
	done      bool
}

// openDatagrams returns a tunnel over HTTP/2 with one open flow, stream 1.
func openDatagrams(t *testing.T, settings ...http2.Setting) (*peer, Datagrams) {
	t.Helper()
	edge := newFakeEdge("h2")
	tun := New(edge.options())
	a := new(asking)
	go func() {
		a.datagrams, a.err = tun.ConnectUDP(t.Context(), "[2001:db8::1]:53")
		a.done = true
	}()
	p := edge.acceptHTTP2(t, append(settings, extendedConnect)...)
	t.Cleanup(func() { tun.Close(); p.close() })
	want := map[string]string{
		":method":          "CONNECT",
		":protocol":        "connect-udp",
		":scheme":          "https",
		":authority":       "edge.example:443",
		":path":            "/.well-known/masque/udp/2001%3Adb8%3A%3A1/53/",
		"capsule-protocol": "?1",
	}
	f := p.expect(http2.FrameHeaders)
	for name, value := range want {
		if f.fields[name] != value {
			t.Errorf("%s is %q, want %q", name, f.fields[name], value)
		}
	}
	if len(f.fields) != len(want) || f.Flags.Has(http2.FlagHeadersEndStream) {
		t.Errorf("request is %v", f)
	}
	p.answer(1, false, "200")
	if synctest.Wait(); !a.done || a.err != nil {
		t.Fatalf("ConnectUDP done %v, error %v", a.done, a.err)
	}
	return p, a.datagrams
}

func TestEdgeIsAskedForDatagramsOnceItsSettingsAllowIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge := newFakeEdge("h2")
		tun := New(edge.options())
		a := new(asking)
		go func() {
			a.datagrams, a.err = tun.ConnectUDP(t.Context(), "192.0.2.1:53")
			a.done = true
		}()
		p := edge.acceptMute(t)
		defer func() { tun.Close(); p.close() }()
		p.expectNone(http2.FrameHeaders)
		p.WriteSettings()
		if synctest.Wait(); !a.done || !errors.Is(a.err, ErrNoDatagrams) {
			t.Errorf("done %v, error %v", a.done, a.err)
		}
		p.expectNone(http2.FrameHeaders)
		if n := tun.pool.conns[0].load.Load(); n != 0 {
			t.Errorf("%d streams are promised still", n)
		}
	})
}

func TestDatagramsTravelInCapsules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := openDatagrams(t)
		if err := d.Send([][]byte{[]byte("one"), {}, []byte("three")}); err != nil {
			t.Fatal(err)
		}
		f := p.expect(http2.FrameData) // all in one
		if want := "\x00\x04\x00one" + "\x00\x01\x00" + "\x00\x06\x00three"; string(f.payload) != want {
			t.Errorf("sent %q, want %q", f.payload, want)
		}
		p.expectNone(http2.FrameData)

		r := receive(d)
		p.WriteData(1, false, []byte("\x00\x02\x00a\x17\x02xx\x00\x02\x02c\x00\x03\x00b"))
		p.WriteData(1, false, []byte("b\x00\x01\x00"))
		for _, want := range []string{"a", "bb", ""} {
			if got := r.next(t); string(got) != want {
				t.Errorf("received %q, want %q", got, want)
			}
		}
		p.WriteData(1, true, nil)
		if err := r.end(t); err != io.EOF {
			t.Error(err)
		}
		if err := d.Send([][]byte{{1}}); err != io.EOF {
			t.Errorf("Send returns %v", err)
		}
	})
}

func TestLongDatagramSpansFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := openDatagrams(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		p.WriteWindowUpdate(0, 1<<20)
		synctest.Wait()
		sent := randomBytes(65507)
		d.Send([][]byte{sent, []byte("next")})
		got, _ := p.data(1)
		if want := capsule.Append(capsule.Append(nil, sent), []byte("next")); !bytes.Equal(got, want) {
			t.Errorf("sent %d bytes, want %d", len(got), len(want))
		}
		if d.Dropped() != 0 {
			t.Errorf("%d were dropped", d.Dropped())
		}
	})
}

func TestDatagramsWithoutWindowAreDroppedWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := openDatagrams(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
		payload := bytes.Repeat([]byte("x"), 60) // 63 bytes in its capsule
		if err := d.Send([][]byte{payload, payload, []byte("short")}); err != nil {
			t.Fatal(err)
		}
		got, _ := p.data(1)
		if want := capsule.Append(capsule.Append(nil, payload), []byte("short")); !bytes.Equal(got, want) {
			t.Errorf("sent %q", got)
		}
		if d.Dropped() != 1 {
			t.Errorf("%d were dropped, want 1", d.Dropped())
		}
		p.WriteWindowUpdate(1, 1000)
		synctest.Wait()
		d.Send([][]byte{payload, make([]byte, capsule.MaxPayload+1)})
		if got, _ := p.data(1); !bytes.Equal(got, capsule.Append(nil, payload)) {
			t.Errorf("sent %q", got)
		}
		if d.Dropped() != 2 {
			t.Errorf("%d were dropped, want 2", d.Dropped())
		}
	})
}

func TestSendDoesNotWaitForAnEdgeThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := openDatagrams(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
		p.WriteWindowUpdate(0, 1<<30)
		synctest.Wait()
		<-p.hearing
		batch := [][]byte{make([]byte, 1400), make([]byte, 1400)}
		for range 1000 {
			if err := d.Send(batch); err != nil {
				t.Fatal(err)
			}
		}
		kept := 2000 - int(d.Dropped())
		if room := 2*maxCapsuleQueue/1400 + 100; kept == 0 || kept > room {
			t.Errorf("%d datagrams were kept, want some and at most %d", kept, room)
		}
		p.hearing <- struct{}{}
		synctest.Wait()
		got, _ := p.data(1)
		if want := kept * capsule.Size(1400); len(got) != want {
			t.Errorf("edge got %d bytes, want %d", len(got), want)
		}
	})
}

func TestStreamsThatBreakTheFormatEnd(t *testing.T) {
	for name, test := range map[string]struct {
		sent string
		end  bool
		code http2.ErrCode
	}{
		"malformed": {"\x00\x02\x00a\x00\x00", false, http2.ErrCodeProtocol},
		"cut off":   {"\x00\x02\x00a\x00\x09\x00cut", true, http2.ErrCodeCancel},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, d := openDatagrams(t)
				r := receive(d)
				p.WriteData(1, test.end, []byte(test.sent))
				if got := r.next(t); string(got) != "a" {
					t.Errorf("received %q", got)
				}
				if err := r.end(t); !errors.Is(err, ErrReset) {
					t.Errorf("Receive returns %v", err)
				}
				d.Close()
				if code := p.expectCode(http2.FrameRSTStream); code != test.code {
					t.Errorf("reset with %v", code)
				}
			})
		})
	}
}

func TestResetAndLostConnectionEndDatagrams(t *testing.T) {
	for name, end := range map[string]func(p *peer){
		"reset": func(p *peer) { p.WriteRSTStream(1, http2.ErrCodeConnect) },
		"lost":  func(p *peer) { p.close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, d := openDatagrams(t)
				r := receive(d)
				end(p)
				if err := r.end(t); !errors.Is(err, ErrReset) {
					t.Errorf("Receive returns %v", err)
				}
				if err := d.Send([][]byte{{1}}); !errors.Is(err, ErrReset) {
					t.Errorf("Send returns %v", err)
				}
			})
		})
	}
}

func TestAnswersOfEdgesThatDoNotKnowCONNECTUDP(t *testing.T) {
	for status, unknown := range map[string]bool{
		"400": true, "404": true, "405": true, "501": true,
		"403": false, "407": false, "502": false, "504": false,
	} {
		synctest.Test(t, func(t *testing.T) {
			edge := newFakeEdge("h2")
			tun := New(edge.options())
			ask := func() *asking {
				a := new(asking)
				go func() {
					a.datagrams, a.err = tun.ConnectUDP(t.Context(), "192.0.2.1:53")
					a.done = true
				}()
				return a
			}
			a := ask()
			p := edge.acceptHTTP2(t, extendedConnect)
			defer func() { tun.Close(); p.close() }()
			p.answer(p.expect(http2.FrameHeaders).StreamID, true, status)
			synctest.Wait()
			refused, ok := errors.AsType[*RefusedError](a.err)
			if !ok || refused.Error() != "edge refused CONNECT: status "+status || errors.Is(a.err, ErrNoDatagrams) != unknown {
				t.Errorf("%s: error %v", status, a.err)
			}

			// Once the edge has carried a flow, they are about the destination.
			b := ask()
			p.answer(p.expect(http2.FrameHeaders).StreamID, false, "200")
			c := ask()
			p.answer(p.expect(http2.FrameHeaders).StreamID, true, status)
			synctest.Wait()
			if b.err != nil || c.err == nil || errors.Is(c.err, ErrNoDatagrams) {
				t.Errorf("%s: errors %v and %v", status, b.err, c.err)
			}
		})
	}
}
