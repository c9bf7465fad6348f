package tunnel

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
)

func newMailbox() *mailbox {
	m := new(mailbox)
	m.filled.L = &m.mu
	return m
}

func TestMailboxHandsOutAllAtOnceThenItsEnd(t *testing.T) {
	m := newMailbox()
	for _, s := range []string{"a", "b", "c"} {
		if !m.put([]byte(s)) {
			t.Errorf("no room for %s", s)
		}
	}
	m.end(io.EOF)
	m.end(errSilent)
	if m.put([]byte("late")) {
		t.Error("takes datagrams after its end")
	}
	batch, err := m.take(nil)
	if len(batch) != 3 || string(batch[2]) != "c" || err != nil {
		t.Errorf("took %q, %v", batch, err)
	}
	if batch, err = m.take(batch); len(batch) > 0 || err != io.EOF {
		t.Errorf("took %q, %v", batch, err)
	}
}

func TestMailboxHoldsSoManyDatagramsAndBytes(t *testing.T) {
	for _, test := range []struct{ size, want int }{{0, mailboxSize}, {mailboxBytes / 8, 8}} {
		m := newMailbox()
		n := 0
		for range 2 * mailboxSize {
			if m.put(make([]byte, test.size)) {
				n++
			}
		}
		if n != test.want {
			t.Errorf("holds %d datagrams of %d bytes, want %d", n, test.size, test.want)
		}
		if batch, err := m.take(nil); len(batch) != n || err != nil {
			t.Errorf("took %d, %v", len(batch), err)
		}
		if !m.put(make([]byte, test.size)) {
			t.Error("has no room though it is empty")
		}
	}
}

func TestMailboxThatClosesForgetsWhatItHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMailbox()
		taken := make(chan error)
		go func() {
			batch, err := m.take(nil)
			if len(batch) > 0 {
				t.Errorf("took %q", batch)
			}
			taken <- err
		}()
		synctest.Wait()
		m.close()
		if err := <-taken; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if m.put([]byte("late")) || !errors.Is(m.over(), net.ErrClosed) {
			t.Errorf("over: %v", m.over())
		}
	})
}
