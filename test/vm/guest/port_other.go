//go:build !amd64

package main

import "errors"

// send is for the machines, which are all amd64.
func send(uint16, uint32) error { return errors.ErrUnsupported }
