package tunnel

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"golang.org/x/net/http2"
)

// maxInterim is how many 1xx answers precede the final one.
const maxInterim = 16

// read takes in frames until the connection ends.
func (c *h2Conn) read() {
	err := c.link.raw.watch(c.pool.keepAlive, pingPatience, c.silent)
	if err == nil {
		err = c.readFrames()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	code, ours := errors.AsType[http2.ConnectionError](err)
	if errors.Is(err, http2.ErrFrameTooLarge) {
		code, ours = http2.ConnectionError(http2.ErrCodeFrameSize), true
	}
	c.end(err, ours, http2.ErrCode(code))
}

func (c *h2Conn) readFrames() error {
	first := true
	for {
		header, err := c.framer.ReadFrameHeader()
		if err != nil {
			return err
		}
		if first && (header.Type != http2.FrameSettings || header.Flags.Has(http2.FlagSettingsAck)) {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		first = false
		if header.Type == http2.FrameData {
			err = c.readData(header)
		} else {
			err = c.readFrame(header)
		}
		if err != nil {
			return err
		}
	}
}

// readFrame takes in a frame that is not DATA.
func (c *h2Conn) readFrame(header http2.FrameHeader) error {
	frame, err := c.framer.ReadFrameForHeader(header)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		err = c.onFrame(frame)
	}
	return c.breakOff(err)
}

// onFrame dispatches a frame. c.mu is held, as by all that it calls.
func (c *h2Conn) onFrame(frame http2.Frame) error {
	switch f := frame.(type) {
	case *http2.MetaHeadersFrame:
		return c.onHeaders(f)
	case *http2.SettingsFrame:
		return c.onSettings(f)
	case *http2.PingFrame:
		return c.onPing(f)
	case *http2.WindowUpdateFrame:
		return c.onWindowUpdate(f)
	case *http2.RSTStreamFrame:
		return c.onReset(f)
	case *http2.GoAwayFrame:
		c.onGoAway(f)
		return nil
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol) // we forbid push
	}
	return c.idleFrame() // PRIORITY, and types to come
}

// idleFrame accounts for a frame that carries nothing.
func (c *h2Conn) idleFrame() error {
	if c.calm.lost() {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	return nil
}

// stream returns the stream that a frame is for, or nil for one that is over:
// its last frames cross our RST_STREAM. c.mu is held.
func (c *h2Conn) stream(id uint32) (*h2Stream, error) {
	if id%2 == 0 || id >= c.nextID {
		return nil, http2.ConnectionError(http2.ErrCodeProtocol) // never opened
	}
	return c.streams[id], nil
}

// breakOff resets the stream on which the edge broke the protocol, if err says
// so. Other errors end the connection and are returned. c.mu is held.
func (c *h2Conn) breakOff(err error) error {
	broken, ok := errors.AsType[http2.StreamError](err)
	if !ok {
		return err
	}
	s, err := c.stream(broken.StreamID)
	if err != nil {
		return err
	}
	if s == nil {
		return c.idleFrame()
	}
	before := len(c.queue.b)
	c.framer.WriteRSTStream(s.id, broken.Code)
	s.fail(fmt.Errorf("%w: %w", ErrReset, cmp.Or(broken.Cause, errMalformed)))
	return c.answerQueued(before)
}

// readData takes in a DATA frame, straight into the stream's inbox.
func (c *h2Conn) readData(header http2.FrameHeader) error {
	data, padding := int(header.Length), 0
	if header.Flags.Has(http2.FlagDataPadded) {
		var b [1]byte
		if data == 0 {
			return http2.ConnectionError(http2.ErrCodeFrameSize)
		}
		if _, err := io.ReadFull(c.link, b[:]); err != nil {
			return err
		}
		padding = int(b[0])
		data -= 1 + padding
		if data < 0 {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.admitData(header, data)
	if err = c.breakOff(err); err != nil {
		return err
	}
	if err := c.fill(s, data); err != nil {
		return err
	}
	if err := c.fill(nil, padding); err != nil {
		return err
	}
	if header.Flags.Has(http2.FlagDataEndStream) && s != nil && c.streams[s.id] == s {
		s.end()
	}
	return nil
}

// admitData accounts for a DATA frame with so many bytes of data and returns
// the stream that they are for, nil if nobody wants them. c.mu is held.
func (c *h2Conn) admitData(header http2.FrameHeader, data int) (*h2Stream, error) {
	length := int(header.Length)
	s, err := c.stream(header.StreamID)
	if err != nil {
		return nil, err
	}
	if c.left -= length; c.left < 0 {
		return nil, http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	if c.left < connWindow/2 {
		c.framer.WriteWindowUpdate(0, uint32(connWindow-c.left))
		c.left = connWindow
		c.kick()
	}
	if data == 0 && !header.Flags.Has(http2.FlagDataEndStream) {
		if err := c.idleFrame(); err != nil {
			return nil, err
		}
	}
	switch {
	case s == nil:
		return nil, nil
	case s.status == 0:
		return nil, streamError(s, http2.ErrCodeProtocol, malformed("DATA before HEADERS"))
	case s.ended:
		return nil, streamError(s, http2.ErrCodeStreamClosed, malformed("DATA after END_STREAM"))
	}
	if s.receive.left -= length; s.receive.left < 0 {
		return nil, http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	s.receive.owed += length - data
	return s, nil
}

// fill reads n bytes into the inbox of s, or nowhere if s is nil or ends
// meanwhile. What has come can be read at once. c.mu is held, but not during
// the read.
func (c *h2Conn) fill(s *h2Stream, n int) error {
	for n > 0 {
		wanted := s != nil && !s.closed
		room := c.scrap[:min(n, len(c.scrap))]
		if wanted {
			room = s.inbox.reserve(n)
		}
		c.mu.Unlock()
		m, err := c.link.Read(room)
		c.mu.Lock()
		if wanted {
			s.inbox.commit(m)
			s.readable.Signal()
		}
		if err != nil {
			return err
		}
		n -= m
	}
	return nil
}

// onHeaders takes in an answer, or the trailers at a stream's end.
func (c *h2Conn) onHeaders(f *http2.MetaHeadersFrame) error {
	s, err := c.stream(f.StreamID)
	if err != nil {
		return err
	}
	switch {
	case s == nil:
		return c.idleFrame()
	case s.ended:
		return streamError(s, http2.ErrCodeStreamClosed, malformed("HEADERS after END_STREAM"))
	case f.Truncated:
		return streamError(s, http2.ErrCodeProtocol, errHeaderTooLarge)
	case s.status != 0 && !f.StreamEnded():
		return streamError(s, http2.ErrCodeProtocol, malformed("HEADERS in the stream"))
	case s.status != 0:
		s.end()
		return nil
	}
	status, ok := parseStatus(f.PseudoValue("status"))
	switch {
	case !ok, status < 200 && f.StreamEnded():
		return streamError(s, http2.ErrCodeProtocol, malformed("status"))
	case status < 200:
		if s.interim++; s.interim > maxInterim {
			return streamError(s, http2.ErrCodeEnhanceYourCalm, malformed("1xx without end"))
		}
		return nil
	}
	s.status = status
	if alternatives := regularField(f, "alt-svc"); len(alternatives) > 0 {
		c.pool.announced(alternatives, c.link.tcp.RemoteAddr())
	}
	close(s.answered)
	if f.StreamEnded() {
		s.end()
	}
	return nil
}

// regularField returns the values of a header field.
func regularField(f *http2.MetaHeadersFrame, name string) (values []string) {
	for _, field := range f.RegularFields() {
		if field.Name == name {
			values = append(values, field.Value)
		}
	}
	return values
}

func streamError(s *h2Stream, code http2.ErrCode, cause error) error {
	return http2.StreamError{StreamID: s.id, Code: code, Cause: cause}
}

// parseStatus parses a status of three digits. 101 is none that HTTP/2 has.
func parseStatus(text string) (status int, ok bool) {
	if len(text) != 3 {
		return 0, false
	}
	for _, digit := range []byte(text) {
		if digit < '0' || digit > '9' {
			return 0, false
		}
		status = status*10 + int(digit-'0')
	}
	return status, status >= 100 && status != 101
}

func (c *h2Conn) onSettings(f *http2.SettingsFrame) error {
	if err := c.idleFrame(); err != nil || f.IsAck() {
		return err
	}
	if f.NumSettings() > maxSettings {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	if err := f.ForeachSetting(c.set); err != nil {
		return err
	}
	select {
	case <-c.settled:
	default:
		close(c.settled)
	}
	before := len(c.queue.b)
	c.framer.WriteSettingsAck()
	return c.answerQueued(before)
}

// maxSettings bounds one SETTINGS frame. RFC 9113 and its extensions know about
// a dozen.
const maxSettings = 64

func (c *h2Conn) set(setting http2.Setting) error {
	if err := setting.Valid(); err != nil {
		return err
	}
	switch setting.ID {
	case http2.SettingMaxConcurrentStreams:
		limit := int32(min(setting.Val, maxWindow))
		c.pool.freed(int(limit - c.limit.Swap(limit)))
	case http2.SettingEnableConnectProtocol:
		c.extended = setting.Val == 1
	case http2.SettingMaxFrameSize:
		c.setMaxFrame(int(setting.Val))
	case http2.SettingHeaderTableSize:
		c.encoder.SetMaxDynamicTableSizeLimit(min(setting.Val, maxHeaderTable))
	case http2.SettingInitialWindowSize:
		delta := int(setting.Val) - c.initial
		c.initial = int(setting.Val)
		for _, s := range c.streams {
			if s.window += delta; s.window > maxWindow {
				return http2.ConnectionError(http2.ErrCodeFlowControl)
			}
			s.writable.Broadcast()
		}
	}
	return nil
}

// maxHeaderTable bounds what the encoder remembers, in bytes.
const maxHeaderTable = 4096

func (c *h2Conn) onPing(f *http2.PingFrame) error {
	if err := c.idleFrame(); err != nil {
		return err
	}
	if !f.IsAck() {
		before := len(c.queue.b)
		c.framer.WritePing(true, f.Data)
		return c.answerQueued(before)
	}
	if rtt := time.Since(c.pinged); !c.pinged.IsZero() && (c.rtt == 0 || rtt < c.rtt) {
		c.rtt = rtt
	}
	c.pinged = time.Time{}
	return nil
}

func (c *h2Conn) onWindowUpdate(f *http2.WindowUpdateFrame) error {
	if f.StreamID == 0 {
		if c.window += int(f.Increment); c.window > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		c.passTurn()
		return nil
	}
	s, err := c.stream(f.StreamID)
	if err != nil || s == nil {
		return err
	}
	if s.window += int(f.Increment); s.window > maxWindow {
		return streamError(s, http2.ErrCodeFlowControl, malformed("window too large"))
	}
	s.writable.Broadcast()
	return nil
}

func (c *h2Conn) onReset(f *http2.RSTStreamFrame) error {
	s, err := c.stream(f.StreamID)
	if err != nil {
		return err
	}
	if s == nil {
		return c.idleFrame()
	}
	s.resetBy(f.ErrCode)
	return nil
}

// onGoAway closes the connection to new streams. Those that the edge has not
// looked at go elsewhere; the others go on.
func (c *h2Conn) onGoAway(f *http2.GoAwayFrame) {
	c.closing.Store(true)
	c.pool.log.Info("connection drains", slog.String("code", f.ErrCode.String()), slog.Int("streams", len(c.streams)))
	for _, s := range c.streams {
		if s.id > f.LastStreamID {
			s.resetBy(http2.ErrCodeRefusedStream)
		}
	}
	c.endIfDrained()
}
