package tunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// be32 is n as it appears on the wire.
func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// setting is a SETTINGS payload of one parameter.
func setting(id http2.SettingID, value uint32) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(id)), be32(value)...)
}

// TestEdgeThatBreaksTheProtocol opens stream 1, lets the edge do one thing that
// RFC 9113 forbids, and wants the frame and code that the RFC asks for.
func TestEdgeThatBreaksTheProtocol(t *testing.T) {
	const goAway, reset = http2.FrameGoAway, http2.FrameRSTStream
	rows := []struct {
		name string
		send func(p *peer)
		want http2.FrameType
		code http2.ErrCode
	}{
		{"DATA on stream 0", raw(http2.FrameData, 0, 0, nil), goAway, http2.ErrCodeProtocol},
		{"DATA on an idle stream", raw(http2.FrameData, 0, 3, nil), goAway, http2.ErrCodeProtocol},
		{"DATA on a stream of the edge", raw(http2.FrameData, 0, 2, nil), goAway, http2.ErrCodeProtocol},
		{"padding longer than the frame", raw(http2.FrameData, http2.FlagDataPadded, 1, []byte{2, 0}), goAway, http2.ErrCodeProtocol},
		{"padded flag without padding length", raw(http2.FrameData, http2.FlagDataPadded, 1, nil), goAway, http2.ErrCodeFrameSize},
		{"DATA after END_STREAM", both(raw(http2.FrameData, http2.FlagDataEndStream, 1, nil), raw(http2.FrameData, 0, 1, []byte("x"))), reset, http2.ErrCodeStreamClosed},
		{"more DATA than the stream's window", func(p *peer) { sendData(p, 1, streamWindow+1) }, goAway, http2.ErrCodeFlowControl},
		{"frame longer than SETTINGS_MAX_FRAME_SIZE", raw(http2.FrameData, 0, 1, make([]byte, maxFrameSize+1)), goAway, http2.ErrCodeFrameSize},
		{"HEADERS on an idle stream", func(p *peer) { p.answer(3, false, "200") }, goAway, http2.ErrCodeProtocol},
		{"HEADERS that are no trailers", func(p *peer) { p.answer(1, false, "200") }, reset, http2.ErrCodeProtocol},
		{"HEADERS after END_STREAM", func(p *peer) { p.WriteData(1, true, nil); p.answer(1, true, "200") }, reset, http2.ErrCodeStreamClosed},
		{"HEADERS that do not decode", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, []byte{0xff, 0xff, 0xff}), goAway, http2.ErrCodeCompression},
		{"HEADERS interrupted by DATA", both(raw(http2.FrameHeaders, 0, 1, nil), raw(http2.FrameData, 0, 1, nil)), goAway, http2.ErrCodeProtocol},
		{"HEADERS with a field in upper case", fields(1, "X-Upper", "1"), reset, http2.ErrCodeProtocol},
		{"CONTINUATION of nothing", raw(http2.FrameContinuation, 0, 1, nil), goAway, http2.ErrCodeProtocol},
		{"endless CONTINUATION", endlessHeaders, goAway, http2.ErrCodeProtocol},
		{"PUSH_PROMISE", raw(http2.FramePushPromise, http2.FlagPushPromiseEndHeaders, 1, be32(2)), goAway, http2.ErrCodeProtocol},
		{"RST_STREAM on an idle stream", raw(http2.FrameRSTStream, 0, 3, be32(0)), goAway, http2.ErrCodeProtocol},
		{"RST_STREAM of 3 bytes", raw(http2.FrameRSTStream, 0, 1, make([]byte, 3)), goAway, http2.ErrCodeFrameSize},
		{"WINDOW_UPDATE on an idle stream", raw(http2.FrameWindowUpdate, 0, 3, be32(1)), goAway, http2.ErrCodeProtocol},
		{"WINDOW_UPDATE of 0 for the connection", raw(http2.FrameWindowUpdate, 0, 0, be32(0)), goAway, http2.ErrCodeProtocol},
		{"WINDOW_UPDATE of 0 for the stream", raw(http2.FrameWindowUpdate, 0, 1, be32(0)), reset, http2.ErrCodeProtocol},
		{"connection window too large", raw(http2.FrameWindowUpdate, 0, 0, be32(maxWindow)), goAway, http2.ErrCodeFlowControl},
		{"stream window too large", raw(http2.FrameWindowUpdate, 0, 1, be32(maxWindow)), reset, http2.ErrCodeFlowControl},
		{"SETTINGS that make a stream window too large", both(raw(http2.FrameWindowUpdate, 0, 1, be32(1<<20)),
			raw(http2.FrameSettings, 0, 0, setting(http2.SettingInitialWindowSize, maxWindow))), goAway, http2.ErrCodeFlowControl},
		{"SETTINGS_INITIAL_WINDOW_SIZE too large", raw(http2.FrameSettings, 0, 0, setting(http2.SettingInitialWindowSize, maxWindow+1)), goAway, http2.ErrCodeFlowControl},
		{"SETTINGS_MAX_FRAME_SIZE too small", raw(http2.FrameSettings, 0, 0, setting(http2.SettingMaxFrameSize, 1000)), goAway, http2.ErrCodeProtocol},
		{"SETTINGS_ENABLE_PUSH of 2", raw(http2.FrameSettings, 0, 0, setting(http2.SettingEnablePush, 2)), goAway, http2.ErrCodeProtocol},
		{"SETTINGS of 5 bytes", raw(http2.FrameSettings, 0, 0, make([]byte, 5)), goAway, http2.ErrCodeFrameSize},
		{"SETTINGS of more than any edge has", raw(http2.FrameSettings, 0, 0, bytes.Repeat(setting(0xff, 0), maxSettings+1)), goAway, http2.ErrCodeEnhanceYourCalm},
		{"SETTINGS on a stream", raw(http2.FrameSettings, 0, 1, nil), goAway, http2.ErrCodeProtocol},
		{"answer to SETTINGS with a payload", raw(http2.FrameSettings, http2.FlagSettingsAck, 0, setting(http2.SettingEnablePush, 0)), goAway, http2.ErrCodeFrameSize},
		{"PING of 7 bytes", raw(http2.FramePing, 0, 0, make([]byte, 7)), goAway, http2.ErrCodeFrameSize},
		{"PING on a stream", raw(http2.FramePing, 0, 1, make([]byte, 8)), goAway, http2.ErrCodeProtocol},
		{"flood of PING", flood(raw(http2.FramePing, 0, 0, make([]byte, 8))), goAway, http2.ErrCodeEnhanceYourCalm},
		{"flood of SETTINGS", flood(raw(http2.FrameSettings, 0, 0, nil)), goAway, http2.ErrCodeEnhanceYourCalm},
		{"flood of empty DATA", flood(raw(http2.FrameData, 0, 1, nil)), goAway, http2.ErrCodeEnhanceYourCalm},
		{"flood of padding alone", flood(raw(http2.FrameData, http2.FlagDataPadded, 1, []byte{0})), goAway, http2.ErrCodeEnhanceYourCalm},
		{"flood of an unknown type", flood(raw(0xee, 0, 0, nil)), goAway, http2.ErrCodeEnhanceYourCalm},
		{"flood of RST_STREAM", flood(raw(http2.FrameRSTStream, 0, 1, be32(8))), goAway, http2.ErrCodeEnhanceYourCalm},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, p, s := open(t)
				p.AllowIllegalWrites = true
				row.send(p)
				if code := p.expectCode(row.want); code != row.code {
					t.Errorf("%v with %v, want %v", row.want, code, row.code)
				}
				p.expectNone(http2.FrameRSTStream)
				p.expectNone(http2.FrameGoAway)
				if _, err := s.Write([]byte("x")); !errors.Is(err, ErrReset) {
					t.Errorf("write error %v", err)
				}
			})
		})
	}
}

// raw sends one frame, as it is.
func raw(typ http2.FrameType, flags http2.Flags, id uint32, payload []byte) func(p *peer) {
	return func(p *peer) { p.WriteRawFrame(typ, flags, id, payload) }
}

func both(first, second func(p *peer)) func(p *peer) {
	return func(p *peer) { first(p); second(p) }
}

// flood sends more of a frame than any purpose explains. Writing ends with an
// error when the tunnel has had enough.
func flood(send func(p *peer)) func(p *peer) {
	return func(p *peer) {
		for range maxIdleFrames + 10 {
			send(p)
		}
	}
}

func fields(id uint32, name, value string) func(p *peer) {
	return func(p *peer) {
		p.block.Reset()
		p.encoder.WriteField(hpack.HeaderField{Name: name, Value: value})
		p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block.Bytes(), EndHeaders: true, EndStream: true})
	}
}

func endlessHeaders(p *peer) {
	p.block.Reset()
	p.encoder.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("y", 10<<10)})
	fragment := p.block.Bytes()
	p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: fragment, EndStream: true})
	for range 100 {
		if p.WriteContinuation(1, false, fragment) != nil {
			return
		}
	}
}

// sendData sends n zero bytes in frames of the size that the tunnel allows.
func sendData(p *peer, id uint32, n int) {
	b := make([]byte, maxFrameSize)
	for n > 0 {
		m := min(n, len(b))
		if err := p.WriteData(id, false, b[:m]); err != nil {
			return // the tunnel has hung up
		}
		n -= m
	}
}

func TestFirstFrameMustBeSettings(t *testing.T) {
	for name, send := range map[string]func(p *peer){
		"PING":                  raw(http2.FramePing, 0, 0, make([]byte, 8)),
		"answer to SETTINGS":    raw(http2.FrameSettings, http2.FlagSettingsAck, 0, nil),
		"connection error":      raw(http2.FrameGoAway, 0, 0, make([]byte, 8)),
		"HEADERS of the answer": func(p *peer) { p.answer(1, false, "200") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				edge := newFakeEdge("h2")
				tun := New(edge.options())
				defer tun.Close()
				start(t.Context(), tun, "host.example:443")
				p := edge.acceptMute(t)
				defer p.close()
				p.expect(http2.FrameHeaders)
				send(p)
				if code := p.expectCode(http2.FrameGoAway); code != http2.ErrCodeProtocol {
					t.Errorf("GOAWAY with %v", code)
				}
				(<-edge.dials).Close() // the CONNECT tries elsewhere
			})
		})
	}
}

// TestAnswerThatBreaksHTTP wants a malformed answer to fail its own CONNECT,
// and neither others nor a retry.
func TestAnswerThatBreaksHTTP(t *testing.T) {
	for name, send := range map[string]func(p *peer, id uint32){
		"DATA first":            func(p *peer, id uint32) { p.WriteData(id, false, []byte("x")) },
		"no status":             func(p *peer, id uint32) { fields(id, "server", "x")(p) },
		"status of 2 digits":    func(p *peer, id uint32) { p.answer(id, false, "20") },
		"status with a sign":    func(p *peer, id uint32) { p.answer(id, false, "+20") },
		"status 099":            func(p *peer, id uint32) { p.answer(id, false, "099") },
		"101":                   func(p *peer, id uint32) { p.answer(id, false, "101") },
		"1xx that ends":         func(p *peer, id uint32) { p.answer(id, true, "103") },
		"pseudo field of asker": func(p *peer, id uint32) { fields(id, ":method", "GET")(p) },
		"endless 1xx": func(p *peer, id uint32) {
			for range maxInterim + 1 {
				p.answer(id, false, "103")
			}
		},
		"header too large": func(p *peer, id uint32) {
			p.answer(id, false, "200", "a", strings.Repeat("x", maxHeaderList/2), "b", strings.Repeat("x", maxHeaderList/2))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tun, p, other := open(t)
				a := start(t.Context(), tun, "host.example:443")
				id := p.expect(http2.FrameHeaders).StreamID
				send(p, id)
				synctest.Wait()
				failure, ok := errors.AsType[*StageError](a.err)
				if !ok || failure.Stage != StageConnect || !errors.Is(a.err, ErrReset) {
					t.Errorf("error %v", a.err)
				}
				if f := p.expect(http2.FrameRSTStream); f.StreamID != id {
					t.Errorf("reset of stream %d", f.StreamID)
				}
				p.expectNone(http2.FrameRSTStream)
				p.expectNone(http2.FrameHeaders)
				p.expectNone(http2.FrameGoAway)
				if _, err := other.Write([]byte("x")); err != nil {
					t.Errorf("the other stream: %v", err)
				}
			})
		})
	}
}
