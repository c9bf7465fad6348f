//go:build race

package testutil

// raced says that the race detector is on.
const raced = true
