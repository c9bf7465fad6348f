package main

import "testing"

func TestUnknownCommandIsRefused(t *testing.T) {
	for _, args := range [][]string{nil, {""}, {"kernel"}, {"kernels5.10"}} {
		if err := run(t.Context(), args); err == nil {
			t.Errorf("%q is run", args)
		}
	}
}
