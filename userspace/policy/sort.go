package policy

import "slices"

// fewPlaces is the length below which comparing is faster than counting.
const fewPlaces = 512

// sortByPlace sorts list along the line. Elements at one place keep their
// sequence.
//
// Long lists are sorted octet by octet, least significant first, and octets
// that all places share are skipped: a million networks are in order after
// three or four passes, where comparing takes twenty rounds.
func sortByPlace[T interface{ place() point }](list []T) {
	if len(list) < fewPlaces {
		slices.SortStableFunc(list, func(a, b T) int { return a.place().compare(b.place()) })
		return
	}
	first := list[0].place()
	var differ point // bits in which places differ
	for _, e := range list {
		differ.hi |= e.place().hi ^ first.hi
		differ.lo |= e.place().lo ^ first.lo
	}
	from, to := list, make([]T, len(list))
	for octet := range 16 {
		if differ.octet(octet) != 0 {
			sortByOctet(from, to, octet)
			from, to = to, from
		}
	}
	copy(list, from) // nothing, if the last pass ended there
}

// sortByOctet copies from in the order of one octet, stably, into to.
func sortByOctet[T interface{ place() point }](from, to []T, octet int) {
	var next [256]int // by the octet's value, where its next element goes
	for _, e := range from {
		next[e.place().octet(octet)]++
	}
	at := 0
	for value, n := range next {
		next[value] = at
		at += n
	}
	for _, e := range from {
		value := e.place().octet(octet)
		to[next[value]] = e
		next[value]++
	}
}
