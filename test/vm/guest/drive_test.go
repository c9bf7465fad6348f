package main

import (
	"testing"
	"testing/fstest"
)

func TestDrivesAreFoundByTheirSerialNumber(t *testing.T) {
	sys := fstest.MapFS{
		"block/nvme1n1/device/serial": {Data: []byte("d0                  \n")},
		"block/nvme0n1/device/serial": {Data: []byte("d1\n")},
		"block/vda/device/serial":     {Data: []byte("d2\n")},
	}
	for serial, want := range map[string]string{"d0": "/dev/nvme1n1", "d1": "/dev/nvme0n1", "d2": "", "d": "", "": ""} {
		if got, ok := drive(sys, serial); got != want || ok != (want != "") {
			t.Errorf("drive %q: got %q, %t, want %q", serial, got, ok, want)
		}
	}
	if got, err := await(sys, "d0"); got != "/dev/nvme1n1" || err != nil {
		t.Errorf("wait for a drive that is there: %q, %v", got, err)
	}
}
