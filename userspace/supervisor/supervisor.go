// Package supervisor tells the service manager that started this process how it
// is doing, in the words of sd_notify(3). Without one it tells nobody.
package supervisor

import (
	"fmt"
	"net"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

const (
	socketVariable = "NOTIFY_SOCKET"

	// writeTimeout is how long a service manager that does not read may
	// hold up the process.
	writeTimeout = 5 * time.Second
)

// Stage is what a process is at, as a service manager tells it.
type Stage uint8

// The stages. A process may go from reloading back to ready, and from any to
// stopping.
const (
	StageStarting  Stage = iota + 1 // it does not serve yet
	StageReady                      // it serves
	StageReloading                  // it serves, and takes up another configuration
	StageStopping                   // it takes itself down
)

// Notice is what a process says of itself. Fields that are zero say nothing.
type Notice struct {
	Stage  Stage         // that begins now
	Status string        // for people; only what fits on a line of text is sent
	Alive  bool          // the process has just found itself well
	Extend time.Duration // how much longer, from now on, the stage may take
	Err    error         // why the process ends
}

// Supervisor is the service manager of this process, or nobody.
type Supervisor struct {
	// Watchdog is how long the manager waits for a notice that says Alive
	// before it takes the process for hung. 0 is for ever.
	Watchdog time.Duration

	socket string
}

// FromEnvironment finds the service manager by what it left in the environment,
// and removes that: it is for this process, and not for those that it starts.
// With an error the manager is still told, but watches for nothing.
func FromEnvironment() (*Supervisor, error) {
	s := &Supervisor{socket: os.Getenv(socketVariable)}
	os.Unsetenv(socketVariable)
	var err error
	if s.Watchdog, err = daemon.SdWatchdogEnabled(true); err != nil {
		return s, fmt.Errorf("read the patience of the watchdog: %w", err)
	}
	return s, nil
}

// Notify tells the manager. It may be called concurrently.
func (s *Supervisor) Notify(n Notice) error {
	if s.socket == "" {
		return nil
	}
	text, err := n.text()
	if err != nil {
		return err
	}
	// A connection that is kept would not outlive a manager that makes its
	// socket anew.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify the supervisor: %w", err)
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("notify the supervisor: %w", err)
	}
	if _, err := conn.Write([]byte(text)); err != nil {
		return fmt.Errorf("notify the supervisor: %w", err)
	}
	return nil
}
