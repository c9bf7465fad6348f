package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
)

// Ports of the targets, of the services that RFC 862, 863 and 864 describe.
const (
	portEcho   = 7
	portSink   = 9
	portSource = 19
)

// Ports of the edges.
const (
	portEdge      = 8443
	portPlainEdge = 8080
)

// targetScenario is what flows are made to. Its argument is how many it must be
// able to hold.
func targetScenario(args []string, stdout io.Writer) error {
	flows, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	if err := raiseFiles(flows); err != nil {
		return err
	}
	for port, talk := range map[int]func(net.Conn){
		portEcho: echo,
		portSink: func(conn net.Conn) {
			buf := make([]byte, bufferSize)
			for {
				if _, err := conn.Read(buf); err != nil {
					return
				}
			}
		},
		portSource: func(conn net.Conn) {
			buf := make([]byte, bufferSize)
			for {
				if _, err := conn.Write(buf); err != nil {
					return
				}
			}
		},
	} {
		if err := serve(fmt.Sprintf("0.0.0.0:%d", port), talk); err != nil {
			return err
		}
	}
	for port, take := range map[int]func(*net.UDPConn, datagrams){
		portEcho: echoDatagrams, portSink: counting(), portSource: sourceDatagrams,
	} {
		if err := serveDatagrams(port, take); err != nil {
			return err
		}
	}
	return obey(stdout, nil)
}

// echo holds a small buffer: thousands of quiet flows wait here.
func echo(conn net.Conn) {
	var buf [64]byte
	for {
		n, err := conn.Read(buf[:])
		if err != nil {
			return
		}
		if _, err := conn.Write(buf[:n]); err != nil {
			return
		}
	}
}

// serve accepts until the process ends.
func serve(address string, talk func(net.Conn)) error {
	config := net.ListenConfig{KeepAlive: -1}
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), "tcp4", address)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				talk(conn)
			}()
		}
	}()
	return nil
}

// plainEdgeScenario is an edge for relays that cannot speak TLS: HTTP/1 CONNECT
// in cleartext, as lean as package net makes it, with splice(2) both ways.
func plainEdgeScenario(_ []string, stdout io.Writer) error {
	err := serve(fmt.Sprintf("0.0.0.0:%d", portPlainEdge), func(conn net.Conn) {
		request, err := http.ReadRequest(bufio.NewReaderSize(conn, 512))
		if err != nil || request.Method != http.MethodConnect {
			return
		}
		far, err := (&net.Dialer{KeepAlive: -1}).Dial("tcp", request.Host)
		if err != nil {
			return
		}
		defer far.Close()
		if _, err := io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\n"); err != nil {
			return
		}
		var both sync.WaitGroup
		both.Go(func() { splice(far, conn) })
		splice(conn, far)
		both.Wait()
	})
	return errors.Join(err, obey(stdout, nil))
}

func splice(to, from net.Conn) {
	io.Copy(to, from)
	to.(*net.TCPConn).CloseWrite()
}
