package resolver

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The ways of a query: over a connected UDP socket, over one that names the
// server with each datagram, or over TCP, one after the other or all at once.
const (
	wayConnected = "udp"
	waySendTo    = "sendto"
	wayTCP       = "tcp"
	wayPipeline  = "pipeline"
)

// askScenario sends queries in a way to a server: its arguments are both, how long
// to wait for the answer to each, and the queries in hexadecimal digits. It
// prints a line for each: the answer in the same form, "silence", the errno, or
// "closed".
func askScenario(args []string, stdout io.Writer) error {
	server, err := netip.ParseAddrPort(args[1])
	if err != nil {
		return err
	}
	limit, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	var queries [][]byte
	for _, text := range args[3:] {
		query, err := hex.DecodeString(text)
		if err != nil {
			return err
		}
		queries = append(queries, query)
	}
	ask := map[string]func(netip.AddrPort, time.Duration, [][]byte) ([]string, error){
		wayConnected: each(askConnected), waySendTo: each(askSendTo), wayTCP: each(askTCP), wayPipeline: askPipeline,
	}[args[0]]
	answers, err := ask(server, limit, queries)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, strings.Join(answers, "\n"))
	return err
}

// each asks one query after the other.
func each(ask func(netip.AddrPort, time.Duration, []byte) ([]byte, error)) func(netip.AddrPort, time.Duration, [][]byte) ([]string, error) {
	return func(server netip.AddrPort, limit time.Duration, queries [][]byte) ([]string, error) {
		var answers []string
		for _, query := range queries {
			answer, err := ask(server, limit, query)
			text, err := describe(answer, err)
			if err != nil {
				return nil, err
			}
			answers = append(answers, text)
		}
		return answers, nil
	}
}

// describe is one line of what askScenario prints.
func describe(answer []byte, err error) (string, error) {
	switch {
	case err == nil:
		return hex.EncodeToString(answer), nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "silence", nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed", nil
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return unix.ErrnoName(errno), nil
	}
	return "", err
}

func askConnected(server netip.AddrPort, limit time.Duration, query []byte) ([]byte, error) {
	conn, err := net.DialTimeout("udp", server.String(), limit)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := checkPeer(conn.(*net.UDPConn), server); err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(limit))
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buffer := make([]byte, 1<<16)
	n, err := conn.Read(buffer)
	return buffer[:n], err
}

// checkPeer asks the kernel whom a socket is connected to.
func checkPeer(conn syscall.Conn, want netip.AddrPort) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer unix.Sockaddr
	controlErr := raw.Control(func(fd uintptr) { peer, err = unix.Getpeername(int(fd)) })
	if err := errors.Join(controlErr, err); err != nil {
		return err
	}
	var got netip.AddrPort
	switch peer := peer.(type) {
	case *unix.SockaddrInet4:
		got = netip.AddrPortFrom(netip.AddrFrom4(peer.Addr), uint16(peer.Port))
	case *unix.SockaddrInet6:
		got = netip.AddrPortFrom(netip.AddrFrom16(peer.Addr), uint16(peer.Port))
	}
	if got != want {
		return fmt.Errorf("compare peer: getpeername says %s, want %s", got, want)
	}
	return nil
}

func askSendTo(server netip.AddrPort, limit time.Duration, query []byte) ([]byte, error) {
	network := "udp6"
	if server.Addr().Is4() {
		network = "udp4"
	}
	packets, err := net.ListenPacket(network, ":0")
	if err != nil {
		return nil, err
	}
	defer packets.Close()
	conn := packets.(*net.UDPConn)
	conn.SetDeadline(time.Now().Add(limit))
	if _, err := conn.WriteToUDPAddrPort(query, server); err != nil {
		return nil, err
	}
	buffer := make([]byte, 1<<16)
	n, from, err := conn.ReadFromUDPAddrPort(buffer)
	if err == nil && from != server {
		return nil, fmt.Errorf("compare source: recvmsg says %s, want %s", from, server)
	}
	return buffer[:n], err
}

// patience is how long a connection may take: limits are those of answers.
const patience = 30 * time.Second

func askTCP(server netip.AddrPort, limit time.Duration, query []byte) ([]byte, error) {
	conn, err := net.DialTimeout("tcp", server.String(), patience)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := checkPeer(conn.(*net.TCPConn), server); err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(limit))
	if _, err := conn.Write(framed(query)); err != nil {
		return nil, err
	}
	return readFramed(conn)
}

// askPipeline writes all queries at once, and puts the answers, which may come in
// any order, into that of the queries by their ids.
func askPipeline(server netip.AddrPort, limit time.Duration, queries [][]byte) ([]string, error) {
	conn, err := net.DialTimeout("tcp", server.String(), patience)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(limit))
	var all []byte
	answers := slices.Repeat([]string{"silence"}, len(queries))
	for _, query := range queries {
		all = append(all, framed(query)...)
	}
	if _, err := conn.Write(all); err != nil {
		return nil, err
	}
	for range queries {
		answer, err := readFramed(conn)
		if err != nil {
			return answers, nil // who is left without an answer shows
		}
		i := slices.IndexFunc(queries, func(query []byte) bool { return bytes.Equal(query[:2], answer[:min(2, len(answer))]) })
		if i < 0 {
			return nil, fmt.Errorf("find the query of answer %x: no such id", answer)
		}
		answers[i] = hex.EncodeToString(answer)
	}
	return answers, nil
}

// framed is a message as TCP carries it, RFC 1035 section 4.2.2.
func framed(message []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...)
}

func readFramed(from io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(from, size[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(from, message)
	return message, err
}

// ask has an application of the host ask queries. Its answers are those of
// askScenario.
func (b *bed) ask(t testing.TB, way, server string, limit time.Duration, queries ...[]byte) []string {
	t.Helper()
	var answers []string
	for some := range slices.Chunk(queries, 50) { // each a few kilobytes at most
		args := []string{way, net.JoinHostPort(server, "53"), limit.String()}
		for _, query := range some {
			args = append(args, hex.EncodeToString(query))
		}
		text, err := b.run(t, b.scenario(t, "ask", args...))
		if err != nil {
			t.Fatalf("ask %s over %s: %v", server, way, err)
		}
		answers = append(answers, strings.Split(strings.TrimSuffix(text, "\n"), "\n")...)
	}
	if len(answers) != len(queries) {
		t.Fatalf("%d answers to %d queries: %q", len(answers), len(queries), answers)
	}
	return answers
}
