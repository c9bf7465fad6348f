package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bpfacq/bpfacq/test/testutil"
	"github.com/bpfacq/bpfacq/userspace/journal"
)

const journalSocket = "/run/systemd/journal/socket"

// journalScenario logs to a journal of its own, at the place where every host has
// its one, and prints the fields of each entry. It needs a mount namespace of its
// own.
func journalScenario(_ []string, stdout io.Writer) error {
	for _, folder := range []string{"/run", "/dev/shm"} {
		if err := errors.Join(os.MkdirAll(folder, 0o755), unix.Mount("tmpfs", folder, "tmpfs", 0, "")); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(journalSocket), 0o755); err != nil {
		return err
	}
	entries, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: journalSocket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer entries.Close()

	log := slog.New(journal.New(journal.Options{Identifier: "bpfacq", Fallback: os.Stderr}))
	for _, cause := range []string{"edge answers 403 Forbidden", "two\nlines", strings.Repeat("x", 1<<20)} {
		log.Warn("flow ended", slog.Int("flow", 7), slog.String("cause", cause))
		fields, err := readEntry(entries)
		if err != nil {
			return err
		}
		if err := json.NewEncoder(stdout).Encode(fields); err != nil {
			return err
		}
	}
	if err := os.Remove(journalSocket); err != nil {
		return err
	}
	log.Error("nobody hears this")
	return nil
}

// readEntry reads an entry, out of a file where it was too long for a message:
// https://systemd.io/JOURNAL_NATIVE_PROTOCOL
func readEntry(entries *net.UnixConn) (map[string]string, error) {
	message, rights := make([]byte, 1<<20), make([]byte, unix.CmsgSpace(4))
	n, m, _, _, err := entries.ReadMsgUnix(message, rights)
	if err != nil {
		return nil, err
	}
	if n > 0 {
		return fieldsOf(message[:n])
	}
	control, err := syscall.ParseSocketControlMessage(rights[:m])
	if err != nil || len(control) != 1 {
		return nil, fmt.Errorf("%d control messages: %w", len(control), err)
	}
	fds, err := syscall.ParseUnixRights(&control[0])
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fds[0]), "entry")
	defer file.Close()
	text, err := io.ReadAll(io.NewSectionReader(file, 0, 16<<20))
	if err != nil {
		return nil, err
	}
	return fieldsOf(text)
}

// fieldsOf reads lines of NAME=value, and of NAME, the value's length and the value.
func fieldsOf(text []byte) (map[string]string, error) {
	fields := make(map[string]string)
	for len(text) > 0 {
		line, rest, _ := bytes.Cut(text, []byte("\n"))
		if name, value, ok := bytes.Cut(line, []byte("=")); ok {
			fields[string(name)], text = string(value), rest
			continue
		}
		length := binary.LittleEndian.Uint64(rest)
		rest = rest[8:]
		if rest[length] != '\n' {
			return nil, fmt.Errorf("field %s ends with %q", line, rest[length])
		}
		fields[string(line)], text = string(rest[:length]), rest[length+1:]
	}
	return fields, nil
}

func TestJournalTakesTheFieldsOfALog(t *testing.T) {
	testutil.Privileged(t)
	cmd := testutil.ScenarioCommand(t, "journal")
	cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNS
	stderr := &transcript{}
	cmd.Stderr = io.MultiWriter(t.Output(), stderr)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(out))
	for _, test := range []struct{ cause, quoted string }{
		{"edge answers 403 Forbidden", `"edge answers 403 Forbidden"`},
		{"two\nlines", `"two\nlines"`},
		{strings.Repeat("x", 1<<20), strings.Repeat("x", 1<<20)},
	} {
		var got map[string]string
		if err := d.Decode(&got); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{
			"MESSAGE":           "flow ended flow=7 cause=" + test.quoted,
			"PRIORITY":          "4",
			"SYSLOG_IDENTIFIER": "bpfacq",
			"BPFACQ_FLOW":       "7",
			"BPFACQ_CAUSE":      test.cause,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if stderr.count("\n") != 1 || stderr.count(`level=ERROR msg="nobody hears this"`) != 1 {
		t.Errorf("without a journal standard error has %q, want one line", stderr.text.String())
	}
}
