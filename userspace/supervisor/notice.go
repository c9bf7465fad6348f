package supervisor

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// maxStatus is how much of a status is sent, in bytes. It is shown on one line.
const maxStatus = 1024

// text puts the notice into the manager's words, one assignment a line.
func (n Notice) text() (string, error) {
	var lines []string
	switch n.Stage {
	case StageReady:
		lines = append(lines, daemon.SdNotifyReady)
	case StageReloading:
		// By the time the manager tells a reload that it has asked for from
		// one before.
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
			return "", fmt.Errorf("read CLOCK_MONOTONIC: %w", err)
		}
		lines = append(lines, daemon.SdNotifyReloading, fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/1000))
	case StageStopping:
		lines = append(lines, daemon.SdNotifyStopping)
	}
	if n.Status != "" {
		lines = append(lines, "STATUS="+oneLine(n.Status))
	}
	if n.Alive {
		lines = append(lines, daemon.SdNotifyWatchdog)
	}
	if n.Extend > 0 {
		lines = append(lines, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", n.Extend.Microseconds()))
	}
	if errno, ok := errors.AsType[syscall.Errno](n.Err); ok {
		lines = append(lines, fmt.Sprintf("ERRNO=%d", errno))
	}
	return strings.Join(lines, "\n"), nil
}

// oneLine keeps foreign text, such as the name of a channel, from being taken
// for an assignment of its own: a line break would begin one.
func oneLine(text string) string {
	text = strings.ReplaceAll(text, "\n", "; ")
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, " "))
	if len(text) <= maxStatus {
		return text
	}
	const more = "…"
	cut := maxStatus - len(more)
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + more
}
