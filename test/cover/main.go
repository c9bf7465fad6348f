// Command cover says what the tests did not reach: a table of the packages, then
// the functions that were never called and the error paths that were never taken.
// Its arguments are coverage profiles as `go test` and `go tool covdata textfmt`
// write them; what any of them reached is reached. It runs at the repository's
// top.
package main

import (
	"fmt"
	"io"
	"os"
)

func main() {
	if err := report(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cover:", err)
		os.Exit(1)
	}
}

func report(w io.Writer, profiles []string) error {
	files := make(profile)
	for _, path := range profiles {
		if err := files.read(path); err != nil {
			return err
		}
	}
	files.printTable(w)
	return files.printGaps(w)
}
