// Package rules holds the project's habits that a program can check. Its tests
// read the source of the whole repository, and show for each rule a source that
// breaks it.
package rules
