package tunnel

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// script is a connection to an edge that says what it says, whatever it hears.
type script struct {
	io.Reader
	net.Conn // nil: for the methods that nobody calls
}

func (s script) Read(b []byte) (int, error)       { return s.Reader.Read(b) }
func (s script) Write(b []byte) (int, error)      { return len(b), nil }
func (s script) Close() error                     { return nil }
func (s script) SetReadDeadline(time.Time) error  { return nil }
func (s script) SetWriteDeadline(time.Time) error { return nil }

// scripts are what edges might say, as seeds.
func scripts() [][]byte {
	var b, block bytes.Buffer
	fr := http2.NewFramer(&b, nil)
	fr.AllowIllegalWrites = true
	encoder := hpack.NewEncoder(&block)
	answer := func(id uint32, status string) {
		block.Reset()
		encoder.WriteField(hpack.HeaderField{Name: ":status", Value: status})
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true})
	}
	var all [][]byte
	add := func(say func()) {
		b.Reset()
		block.Reset()
		encoder = hpack.NewEncoder(&block)
		fr.WriteSettings()
		say()
		all = append(all, bytes.Clone(b.Bytes()))
	}
	add(func() { answer(1, "200"); fr.WriteData(1, true, []byte("hello")) })
	add(func() {
		answer(1, "103")
		answer(1, "403")
		answer(3, "200")
		fr.WriteDataPadded(3, false, []byte("x"), make([]byte, 9))
	})
	add(func() {
		fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 7})
		fr.WriteSettingsAck()
		answer(5, "200")
	})
	add(func() {
		answer(1, "200")
		answer(3, "200")
		fr.WriteWindowUpdate(0, 99)
		fr.WriteWindowUpdate(3, 99)
		fr.WriteRSTStream(1, http2.ErrCodeConnect)
	})
	add(func() {
		answer(1, "200")
		fr.WriteGoAway(1, http2.ErrCodeNo, nil)
		fr.WritePing(false, [8]byte{})
		fr.WritePing(true, [8]byte{})
	})
	add(func() {
		fr.WriteRawFrame(0xfe, 3, 1, []byte("?"))
		fr.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2})
	})
	add(func() {
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1})
		fr.WriteContinuation(1, true, []byte{0x88})
	})
	return all
}

// FuzzEdge lets an edge say anything to a connection with three streams: one
// that reads, one that writes, one that does neither.
func FuzzEdge(f *testing.F) {
	for _, b := range scripts() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		o := Options{Address: "edge.example:443"}
		p := newPool(newDialer(o), Options{Log: slog.New(slog.DiscardHandler), KeepAlive: time.Hour}, func([]string, net.Addr) {})
		defer p.cancel()
		conn := script{Reader: bytes.NewReader(said)}
		c := newH2Conn(&link{Conn: conn, raw: &pulse{Conn: conn}}, p)
		var streams []*h2Stream
		for range 3 {
			c.load.Add(1)
			s, err := c.open(request{authority: "host.example:443"})
			if err != nil {
				t.Fatal(err)
			}
			streams = append(streams, s)
		}
		var tasks sync.WaitGroup
		tasks.Go(c.read)
		tasks.Go(c.tend)
		tasks.Go(func() {
			if n, err := io.Copy(io.Discard, struct{ io.Reader }{streams[0]}); n > int64(len(said)) || err != nil && !errors.Is(err, ErrReset) && !errors.Is(err, errUnanswered) {
				t.Errorf("read %d bytes, error %v", n, err)
			}
		})
		tasks.Go(func() {
			for b := make([]byte, 100<<10); ; {
				if _, err := streams[1].Write(b); err != nil {
					return
				}
			}
		})
		tasks.Wait()
		for _, s := range streams {
			if s.inbox.size > maxStreamWindow {
				t.Errorf("%d bytes are held", s.inbox.size)
			}
			if status, err := s.answer(); (status == 0) != (err != nil) || status != 0 && (status < 200 || status > 999) {
				t.Errorf("status %d, error %v", status, err)
			}
			s.Close()
		}
		if c.load.Load() != 0 || len(c.streams) != 0 || c.budget != windowBudget {
			t.Errorf("load %d, %d streams, budget %d are left", c.load.Load(), len(c.streams), c.budget)
		}
	})
}
