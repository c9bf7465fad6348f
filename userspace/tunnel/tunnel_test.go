package tunnel

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"sync"
	"testing"
)

func TestStreamsCarryTheirBytesUnmixed(t *testing.T) {
	for _, http2 := range []bool{true, false} {
		t.Run(fmt.Sprintf("http2=%v", http2), func(t *testing.T) {
			tun := newTunnel(t, stockEdge(t, http2, echo))
			var flows sync.WaitGroup
			for range 64 {
				flows.Go(func() {
					if err := roundTrip(t, tun, 300<<10); err != nil {
						t.Error(err)
					}
				})
			}
			flows.Wait()
		})
	}
}

// roundTrip sends n random bytes to an echoing edge and compares.
func roundTrip(t *testing.T, tun *Tunnel, n int) error {
	s, err := tun.Connect(t.Context(), "host.example:443")
	if err != nil {
		return err
	}
	defer s.Close()
	sent := make([]byte, n)
	rand.Read(sent)
	var writing sync.WaitGroup
	writing.Go(func() {
		if _, err := s.Write(sent); err != nil {
			t.Error(err)
		}
		if err := s.CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	got, err := io.ReadAll(s)
	writing.Wait()
	if err != nil {
		return err
	}
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("got %d bytes back that differ from the %d sent", len(got), len(sent))
	}
	return nil
}
