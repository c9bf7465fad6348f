package tunnel

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"sync"
	"testing"
)

// bothProtocols runs f with a tunnel to an echoing edge of each kind.
func bothProtocols(t *testing.T, f func(t *testing.T, tun *Tunnel)) {
	for _, http2 := range []bool{true, false} {
		t.Run(fmt.Sprintf("http2=%v", http2), func(t *testing.T) {
			f(t, newTunnel(t, stockEdge(t, http2, echo)))
		})
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func TestStreamsCarryTheirBytesUnmixed(t *testing.T) {
	bothProtocols(t, func(t *testing.T, tun *Tunnel) {
		var flows sync.WaitGroup
		for range 64 {
			flows.Go(func() {
				s, err := tun.Connect(t.Context(), "host.example:443")
				if err != nil {
					t.Error(err)
					return
				}
				defer s.Close()
				sent := randomBytes(300 << 10)
				flows.Go(func() {
					if _, err := s.Write(sent); err != nil {
						t.Error(err)
					}
					if err := s.CloseWrite(); err != nil {
						t.Error(err)
					}
				})
				if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, sent) {
					t.Errorf("got %d bytes back, error %v", len(got), err)
				}
			})
		}
		flows.Wait()
	})
}

func TestStreamWritesItselfTo(t *testing.T) {
	tun := newTunnel(t, stockEdge(t, true, echo))
	s, err := tun.Connect(t.Context(), "host.example:443")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	sent := randomBytes(10 << 20)
	var writing sync.WaitGroup
	writing.Go(func() {
		if _, err := s.Write(sent); err != nil {
			t.Error(err)
		}
		s.CloseWrite()
	})
	var got bytes.Buffer
	n, err := s.(io.WriterTo).WriteTo(&got)
	if n != int64(len(sent)) || err != nil || !bytes.Equal(got.Bytes(), sent) {
		t.Errorf("got %d bytes back, error %v", n, err)
	}
	writing.Wait()
}

func TestWriteToReturnsTheWritersError(t *testing.T) {
	tun := newTunnel(t, stockEdge(t, true, echo))
	s, err := tun.Connect(t.Context(), "host.example:443")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Write([]byte("hello"))
	r, w := io.Pipe()
	r.CloseWithError(io.ErrNoProgress)
	if n, err := s.(io.WriterTo).WriteTo(w); n != 0 || err != io.ErrNoProgress {
		t.Errorf("wrote %d bytes, error %v", n, err)
	}
}

func TestWritersOfOneStreamMayBeMany(t *testing.T) {
	bothProtocols(t, func(t *testing.T, tun *Tunnel) {
		s, err := tun.Connect(t.Context(), "host.example:443")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		const writers, each = 4, 1 << 20
		var writing sync.WaitGroup
		for i := range writers {
			writing.Go(func() {
				if _, err := s.Write(bytes.Repeat([]byte{byte(i)}, each)); err != nil {
					t.Error(err)
				}
			})
		}
		go func() {
			writing.Wait()
			s.CloseWrite()
		}()
		got, err := io.ReadAll(s)
		if err != nil || len(got) != writers*each {
			t.Errorf("%d bytes came back, error %v", len(got), err)
		}
		for i := range writers {
			if n := bytes.Count(got, []byte{byte(i)}); n != each {
				t.Errorf("%d bytes of writer %d came back, want %d", n, i, each)
			}
		}
	})
}
