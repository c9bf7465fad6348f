package tunnel

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
)

func TestRefusedStreamIsTriedElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun, p, s := open(t)
		a := start(t.Context(), tun, "b.example:1")
		p.WriteRSTStream(p.expect(http2.FrameHeaders).StreamID, http2.ErrCodeRefusedStream)
		second := p.edge.acceptHTTP2(t)
		defer second.close()
		second.answer(second.expect(http2.FrameHeaders).StreamID, false, "200")
		if synctest.Wait(); !a.done || a.err != nil {
			t.Errorf("done %v, error %v", a.done, a.err)
		}
		if _, err := s.Write([]byte("x")); err != nil {
			t.Errorf("the first stream: %v", err)
		}
	})
}

func TestResetAnswerIsNotTriedElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun, p, _ := open(t)
		a := start(t.Context(), tun, "b.example:1")
		p.WriteRSTStream(p.expect(http2.FrameHeaders).StreamID, http2.ErrCodeConnect)
		if synctest.Wait(); stageOf(a.err) != StageConnect || !errors.Is(a.err, ErrReset) {
			t.Errorf("error %v", a.err)
		}
		p.expectNone(http2.FrameHeaders)
	})
}

func TestGoAwayMovesOnlyWhatTheEdgeHasNotSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun, p, s := open(t)
		seen := start(t.Context(), tun, "seen.example:1")
		p.expect(http2.FrameHeaders)
		unseen := start(t.Context(), tun, "unseen.example:1")
		p.expect(http2.FrameHeaders)
		p.WriteGoAway(3, http2.ErrCodeNo, nil)

		second := p.edge.acceptHTTP2(t)
		defer second.close()
		f := second.expect(http2.FrameHeaders)
		if f.fields[":authority"] != "unseen.example:1" {
			t.Errorf("%v moved", f.fields)
		}
		second.expectNone(http2.FrameHeaders)
		second.answer(f.StreamID, false, "200")
		p.answer(3, false, "200")
		p.WriteData(1, false, []byte("x"))
		if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
			t.Errorf("the old stream: %v", err)
		}
		synctest.Wait()
		for _, a := range []*attempt{seen, unseen} {
			if !a.done || a.err != nil {
				t.Errorf("done %v, error %v", a.done, a.err)
			}
		}
		third := start(t.Context(), tun, "third.example:1")
		second.answer(second.expect(http2.FrameHeaders).StreamID, false, "200")
		if synctest.Wait(); third.err != nil {
			t.Error(third.err)
		}
		p.expectNone(http2.FrameHeaders)

		p.expectNone(http2.FrameGoAway)
		s.CloseWrite()
		p.WriteData(1, true, nil)
		seen.stream.Close()
		p.expect(http2.FrameGoAway) // the last has gone
	})
}

func TestLastBytesLeaveBeforeADrainedConnectionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, s := open(t)
		p.WriteGoAway(1, http2.ErrCodeNo, nil)
		p.WriteData(1, true, nil)
		synctest.Wait()
		s.Write([]byte("last"))
		s.CloseWrite()
		if got, ended := p.data(1); string(got) != "last" || !ended {
			t.Errorf("edge got %q, ended %v", got, ended)
		}
		p.expect(http2.FrameGoAway)
	})
}

func TestConnectTriesThreeTimesAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge := newFakeEdge("h2")
		tun := New(edge.options())
		defer tun.Close()
		a := start(t.Context(), tun, "host.example:443")
		for range connectAttempts {
			p := edge.acceptHTTP2(t)
			p.expect(http2.FrameHeaders)
			p.close()
		}
		synctest.Wait()
		if stageOf(a.err) != StageConnect || errors.Is(a.err, io.EOF) || len(edge.dials) != 0 {
			t.Errorf("error %v, %d dials more", a.err, len(edge.dials))
		}
	})
}
