package testutil

// Rounds returns how often a test repeats what it does at random: n times, or a
// quarter of that under the race detector, which is slow and looks at something else.
func Rounds(n int) int {
	if raced {
		return n / 4
	}
	return n
}
