package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// exchangeTimeout is for one exchange on a busy machine.
const exchangeTimeout = time.Minute

// exchangeScenario connects to the address of its second argument, talks in the
// way of the first, and prints what came of it, or the errno that ended it.
func exchangeScenario(args []string, stdout io.Writer) error {
	way, argument, _ := strings.Cut(args[0], "=")
	talk, ok := map[string]func(*net.TCPConn, string) (string, error){
		"ask": ask, "hear": hear, "listen": listenOn, "abort": abort, "quiet": quiet, "bulk": bulk,
	}[way]
	if !ok {
		return fmt.Errorf("exchange in the way %q: not known", way)
	}
	conn, err := net.DialTimeout("tcp", args[1], exchangeTimeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		return err
	}
	result, err := talk(conn.(*net.TCPConn), argument)
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		result, err = unix.ErrnoName(errno), nil
	}
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, result)
	return err
}

// ask half-closes after its question, and then reads the answer to its end.
func ask(conn *net.TCPConn, question string) (string, error) {
	if _, err := io.WriteString(conn, question); err != nil {
		return "", err
	}
	if err := conn.CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// hear reads until the target half-closes, and then still has its say.
func hear(conn *net.TCPConn, reply string) (string, error) {
	heard, err := io.ReadAll(conn)
	if err != nil {
		return "", err
	}
	_, err = io.WriteString(conn, reply)
	return string(heard), err
}

// listenOn says a word, and prints what it reads as it comes, to the end, for
// tests that act while a flow is live.
func listenOn(conn *net.TCPConn, word string) (string, error) {
	if _, err := io.WriteString(conn, word); err != nil {
		return "", err
	}
	_, err := io.Copy(os.Stdout, onlyReader{conn})
	return "end", err
}

// onlyReader keeps io.Copy from splicing, which hides errnos from it.
type onlyReader struct{ io.Reader }

// abort resets the connection after the target's first words.
func abort(conn *net.TCPConn, _ string) (string, error) {
	words := make([]byte, 64)
	n, err := conn.Read(words)
	if err != nil {
		return "", err
	}
	return string(words[:n]), conn.SetLinger(0)
}

// quiet says nothing for a while, in which nothing may happen, and then asks for
// an echo.
func quiet(conn *net.TCPConn, pause string) (string, error) {
	d, err := time.ParseDuration(pause)
	if err != nil {
		return "", err
	}
	if err := conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		return "", err
	}
	buf := make([]byte, 64)
	if n, err := conn.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		return "", fmt.Errorf("read %q, %w in the pause", buf[:n], err)
	}
	if err := conn.SetDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		return "", err
	}
	return ask(conn, "still here")
}

// bulk sends a number of bytes to a target that echoes, and compares what comes
// back with what was sent. It does not half-close: many an edge then closes.
func bulk(conn *net.TCPConn, amount string) (string, error) {
	total, err := strconv.ParseInt(amount, 10, 64)
	if err != nil {
		return "", err
	}
	var both errgroup.Group
	both.Go(func() error {
		_, err := io.CopyN(conn, noise(), total)
		return err
	})
	var same int64
	both.Go(func() (err error) {
		same, err = compare(io.LimitReader(conn, total), noise())
		return err
	})
	if err := both.Wait(); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d bytes came back", same), nil
}

// noise is the same endless stream each time.
func noise() io.Reader { return rand.NewChaCha8([32]byte{}) }

// compare reads got to its end, and returns how much of it is as in want.
func compare(got, want io.Reader) (same int64, err error) {
	gotten, wanted := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := got.Read(gotten)
		if _, wantErr := io.ReadFull(want, wanted[:n]); wantErr != nil {
			return same, wantErr
		}
		if !bytes.Equal(gotten[:n], wanted[:n]) {
			return same, fmt.Errorf("bytes %d to %d are not what was sent", same, same+int64(n))
		}
		same += int64(n)
		if err == io.EOF {
			return same, nil
		}
		if err != nil {
			return same, err
		}
	}
}
