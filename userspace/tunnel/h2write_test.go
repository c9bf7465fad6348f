package tunnel

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/bpfacq/bpfacq/userspace/tlsrecord"
)

func writing(s Stream, b []byte) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := s.Write(b)
		done <- err
	}()
	return done
}

func isDone(done <-chan error) bool {
	synctest.Wait()
	return len(done) > 0
}

func TestWriteKeepsToTheStreamsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, s := open(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000})
		sent := bytes.Repeat([]byte("0123456789"), 250)
		done := writing(s, sent)
		got, _ := p.data(1)
		if len(got) != 1000 || isDone(done) {
			t.Fatalf("edge got %d bytes, Write done %v", len(got), isDone(done))
		}
		p.WriteWindowUpdate(1, 700)
		more, _ := p.data(1)
		got = append(got, more...)
		if len(got) != 1700 || isDone(done) {
			t.Fatalf("edge got %d bytes, Write done %v", len(got), isDone(done))
		}
		p.WriteWindowUpdate(1, 5000)
		more, _ = p.data(1)
		if err := <-done; err != nil || !bytes.Equal(append(got, more...), sent) {
			t.Errorf("edge got %d bytes, Write error %v", len(got)+len(more), err)
		}
	})
}

func TestWriteFollowsChangesOfTheInitialWindow(t *testing.T) {
	initial := func(n uint32) http2.Setting {
		return http2.Setting{ID: http2.SettingInitialWindowSize, Val: n}
	}
	synctest.Test(t, func(t *testing.T) {
		_, p, s := open(t, initial(1000))
		done := writing(s, make([]byte, 3000))
		got, _ := p.data(1)
		p.WriteSettings(initial(400))  // the window is -600 now
		p.WriteWindowUpdate(1, 600)    // and 0
		p.WriteSettings(initial(1400)) // and 1000
		more, _ := p.data(1)
		if len(got) != 1000 || len(more) != 1000 || isDone(done) {
			t.Fatalf("edge got %d and %d bytes, Write done %v", len(got), len(more), isDone(done))
		}
		p.WriteSettings(initial(65535))
		if more, _ := p.data(1); len(more) != 1000 || !isDone(done) {
			t.Errorf("edge got %d bytes more", len(more))
		}
	})
}

func TestFramesKeepToTheEdgesMaximum(t *testing.T) {
	for _, row := range []struct{ setting, want uint32 }{
		{16 << 10, 16<<10 - frameHeaderLen},
		{40 << 10, 32<<10 - frameHeaderLen},
		{1 << 20, maxDataRecords*tlsrecord.Len - frameHeaderLen},
	} {
		synctest.Test(t, func(t *testing.T) {
			_, p, s := open(t,
				http2.Setting{ID: http2.SettingMaxFrameSize, Val: row.setting},
				http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
			p.WriteWindowUpdate(0, 1<<20)
			synctest.Wait()
			if err := <-writing(s, make([]byte, 300<<10)); err != nil {
				t.Fatal(err)
			}
			var longest uint32
			for f, ok := p.next(http2.FrameData); ok; f, ok = p.next(http2.FrameData) {
				longest = max(longest, f.Length)
			}
			if longest != row.want {
				t.Errorf("SETTINGS_MAX_FRAME_SIZE %d: longest frame has %d bytes, want %d", row.setting, longest, row.want)
			}
		})
	}
}

func TestConnectionWindowIsSharedInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun, p, first := open(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		a := start(t.Context(), tun, "second.example:1")
		p.expect(http2.FrameHeaders)
		p.answer(3, false, "200")
		synctest.Wait()
		firstDone := writing(first, make([]byte, initialWindow+100)) // all of the connection's window and more
		synctest.Wait()
		secondDone := writing(a.stream, make([]byte, 100))
		synctest.Wait()
		p.drop(http2.FrameData, true)
		p.WriteWindowUpdate(0, 50)
		if f := p.expect(http2.FrameData); f.StreamID != 1 || f.Length != 50 {
			t.Errorf("%v, want 50 bytes on stream 1, which came first", f)
		}
		p.WriteWindowUpdate(0, 30)
		if f := p.expect(http2.FrameData); f.StreamID != 3 || f.Length != 30 {
			t.Errorf("%v, want 30 bytes on stream 3, whose turn it is", f)
		}
		p.WriteWindowUpdate(0, 20)
		if f := p.expect(http2.FrameData); f.StreamID != 1 || f.Length != 20 {
			t.Errorf("%v, want 20 bytes on stream 1", f)
		}
		a.stream.Reset() // must not keep its place
		if err := <-secondDone; err == nil {
			t.Error("Write on after Reset")
		}
		p.WriteWindowUpdate(0, 1000)
		if f := p.expect(http2.FrameData); f.StreamID != 1 || f.Length != 30 {
			t.Errorf("%v, want 30 bytes on stream 1", f)
		}
		if err := <-firstDone; err != nil {
			t.Error(err)
		}
	})
}

func deafEdge(t *testing.T) (tun *Tunnel, p *peer, s, other Stream, done <-chan error) {
	t.Helper()
	tun, p, s = open(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 8 << 20})
	a := start(t.Context(), tun, "other.example:1")
	p.expect(http2.FrameHeaders)
	p.answer(3, false, "200")
	p.WriteWindowUpdate(0, 8<<20)
	synctest.Wait()
	<-p.hearing
	done = writing(s, make([]byte, 1<<20))
	synctest.Wait()
	return tun, p, s, a.stream, done
}

func TestDeafEdgeIsStillHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, s, other, done := deafEdge(t)
		p.WritePing(false, [8]byte{7})
		p.WriteData(3, false, []byte("hello"))
		b := make([]byte, 5)
		if _, err := io.ReadFull(other, b); err != nil || string(b) != "hello" {
			t.Errorf("read %q, %v", b, err)
		}
		other.Reset() // does not wait
		if len(done) > 0 {
			t.Error("Write done, nobody reads")
		}
		p.hearing <- struct{}{}
		if err := <-done; err != nil {
			t.Error(err)
		}
		p.expect(http2.FramePing)
		if f := p.expect(http2.FrameRSTStream); f.StreamID != 3 {
			t.Errorf("%v, want stream 3", f)
		}
		if got, _ := p.data(1); len(got) != 1<<20 {
			t.Errorf("edge got %d bytes", len(got))
		}
		s.Close()
	})
}

func TestReadDoesNotWaitForADeafEdge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, s := open(t)
		<-p.hearing
		s.Write([]byte("x")) // is the last that the edge hears
		sendData(p, 1, streamWindow)
		begin := time.Now()
		if _, err := io.ReadFull(s, make([]byte, streamWindow)); err != nil || time.Since(begin) != 0 {
			t.Errorf("error %v after %v", err, time.Since(begin))
		}
		p.hearing <- struct{}{}
	})
}

func TestBulkLeavesOthersTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, _, other, done := deafEdge(t)
		small := writing(other, []byte("x"))
		synctest.Wait()
		p.hearing <- struct{}{}
		if err := errors.Join(<-done, <-small); err != nil {
			t.Fatal(err)
		}
		before := 0
		for f := p.expect(http2.FrameData); f.StreamID == 1; f = p.expect(http2.FrameData) {
			before += int(f.Length)
		}
		if limit := 2*maxBurst + maxQueue; before > limit {
			t.Errorf("%d bytes of the bulk stream went first, limit %d", before, limit)
		}
	})
}

func TestAllWhoWaitForRoomGetIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun, p, _, _, done := deafEdge(t)
		all := []<-chan error{done}
		for id := uint32(5); id < 20; id += 2 {
			c := tun.pool.conns[0]
			c.load.Add(1)
			s, err := c.open(request{authority: "host.example:1"})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, writing(s, make([]byte, 200<<10)))
		}
		synctest.Wait()
		p.hearing <- struct{}{}
		begin := time.Now()
		for _, done := range all {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("all were written after %v only", waited)
		}
	})
}

func TestRoomIsPassedOnWhileOthersAreWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun, p, s := open(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		if err := <-writing(s, make([]byte, initialWindow)); err != nil { // all of the connection's
			t.Fatal(err)
		}
		var all []<-chan error
		for id := uint32(3); id < 9; id += 2 {
			a := start(t.Context(), tun, "next.example:1")
			p.expect(http2.FrameHeaders)
			p.answer(id, false, "200")
			synctest.Wait()
			all = append(all, writing(a.stream, make([]byte, 10)))
		}
		<-p.hearing
		start(t.Context(), tun, "heard.example:1")
		synctest.Wait()
		start(t.Context(), tun, "unheard.example:1") // keeps tend busy
		synctest.Wait()
		p.WriteWindowUpdate(0, 1000)
		for i, done := range all {
			if !isDone(done) {
				t.Errorf("writer %d waits for the edge to read", i)
			}
		}
		p.hearing <- struct{}{}
	})
}

func TestAnswersToADeafEdgeAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, s, _, _ := deafEdge(t)
		begin := time.Now()
		for range maxAnswers/(frameHeaderLen+8) + 1 {
			p.WritePing(false, [8]byte{})
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
			t.Errorf("read error %v", err)
		}
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("the connection ended after %v only", waited)
		}
		p.hearing <- struct{}{}
	})
}

func TestRequestsToADeafEdgeAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, s, _, _ := deafEdge(t)
		c := s.(*h2Stream).conn
		for range 3 * maxBacklog / 4096 {
			r := request{authority: "host.example:1", authorization: string(bytes.Repeat([]byte("~"), 4096))}
			c.load.Add(1)
			if opened, err := c.open(r); err == nil {
				opened.Close()
			}
		}
		c.mu.Lock()
		if n := len(c.queue.b); n > maxBacklog+maxQueue+8192 {
			t.Errorf("%d bytes wait", n)
		}
		c.mu.Unlock()
		p.hearing <- struct{}{}
	})
}
