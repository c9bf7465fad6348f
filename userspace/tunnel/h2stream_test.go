package tunnel

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
)

func TestEachDirectionEndsByItself(t *testing.T) {
	rows := []struct {
		name string
		run  func(t *testing.T, p *peer, s Stream)
	}{
		{"edge first", func(t *testing.T, p *peer, s Stream) {
			p.WriteData(1, true, []byte("bye"))
			got, err := io.ReadAll(s)
			if string(got) != "bye" || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
			if _, err := s.Write([]byte("on")); err != nil {
				t.Error(err)
			}
			if got, ended := p.data(1); string(got) != "on" || ended {
				t.Errorf("edge got %q, ended %v", got, ended)
			}
			s.CloseWrite()
		}},
		{"application first", func(t *testing.T, p *peer, s Stream) {
			s.Write([]byte("bye"))
			s.CloseWrite()
			if got, ended := p.data(1); string(got) != "bye" || !ended {
				t.Errorf("edge got %q, ended %v", got, ended)
			}
			if _, err := s.Write([]byte("x")); err == nil {
				t.Error("write after CloseWrite")
			}
			p.WriteData(1, true, []byte("on"))
			if got, err := io.ReadAll(s); string(got) != "on" || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
		}},
		{"edge with trailers", func(t *testing.T, p *peer, s Stream) {
			p.WriteData(1, false, []byte("bye"))
			p.block.Reset()
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, EndHeaders: true})
			if got, err := io.ReadAll(s); string(got) != "bye" || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
			s.CloseWrite()
		}},
		{"edge needs no more of ours", func(t *testing.T, p *peer, s Stream) {
			p.WriteData(1, true, []byte("bye"))
			p.WriteRSTStream(1, http2.ErrCodeNo)
			synctest.Wait()
			if got, err := io.ReadAll(s); string(got) != "bye" || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
			if _, err := s.Write([]byte("x")); !errors.Is(err, ErrReset) {
				t.Errorf("write error %v", err)
			}
		}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, p, s := open(t)
				row.run(t, p, s)
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				p.expectNone(http2.FrameRSTStream)
				p.expectNone(http2.FrameGoAway)
			})
		})
	}
}

func TestResetOfTheEdgeIsSeenAfterItsBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, s := open(t)
		p.WriteData(1, false, []byte("last"))
		p.WriteRSTStream(1, http2.ErrCodeConnect)
		synctest.Wait()
		got, err := io.ReadAll(s)
		if string(got) != "last" || !errors.Is(err, ErrReset) {
			t.Errorf("read %q, %v", got, err)
		}
		if _, err := s.Write([]byte("x")); !errors.Is(err, ErrReset) {
			t.Errorf("write error %v", err)
		}
		s.Close()
		p.expectNone(http2.FrameRSTStream)
	})
}

func TestLateRefusalIsAReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, s := open(t)
		p.WriteRSTStream(1, http2.ErrCodeRefusedStream)
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrReset) || errors.Is(err, errUnanswered) {
			t.Errorf("read error %v", err)
		}
	})
}

func TestReleasingAStreamTellsTheEdge(t *testing.T) {
	rows := []struct {
		name    string
		release func(s Stream)
		want    http2.ErrCode
	}{
		{"Reset", func(s Stream) { s.Reset() }, http2.ErrCodeConnect},
		{"Close", func(s Stream) { s.Close() }, http2.ErrCodeCancel},
		{"CloseWrite and Close", func(s Stream) { s.CloseWrite(); s.Close() }, http2.ErrCodeCancel},
		{"Reset twice", func(s Stream) { s.Reset(); s.Reset(); s.Close() }, http2.ErrCodeConnect},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, p, s := open(t)
				p.WriteData(1, false, []byte("x"))
				io.ReadFull(s, make([]byte, 1))
				reading := make(chan error, 1)
				go func() {
					_, err := s.Read(make([]byte, 1))
					reading <- err
				}()
				synctest.Wait()
				row.release(s)
				if err := <-reading; !errors.Is(err, net.ErrClosed) {
					t.Errorf("blocked Read returned %v", err)
				}
				if _, err := s.Write([]byte("x")); err == nil {
					t.Error("Write succeeded")
				}
				if got := p.expectCode(http2.FrameRSTStream); got != row.want {
					t.Errorf("RST_STREAM with %v, want %v", got, row.want)
				}
				p.expectNone(http2.FrameRSTStream)
				p.expectNone(http2.FrameGoAway)
			})
		})
	}
}

func TestReleasedStreamHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, s := open(t)
		sendData(p, 1, streamWindow)
		synctest.Wait()
		s.Close()
		if in := &s.(*h2Stream).inbox; in.size != 0 || in.head != nil {
			t.Errorf("%d bytes are held", in.size)
		}
		p.WriteData(1, false, []byte("more"))
		synctest.Wait()
		if in := &s.(*h2Stream).inbox; in.size != 0 || in.head != nil {
			t.Errorf("%d bytes are held", in.size)
		}
	})
}
