package config

import (
	"iter"
	"reflect"
)

// Change is a key whose value differs between two configurations.
type Change struct {
	Key     string // dotted
	Restart bool   // it takes effect only when the agent starts
}

// Changes lists the keys that next sets differently, in the order of
// [Example].
func (c *Config) Changes(next *Config) []Change {
	var changes []Change
	for change, equal := range compare("", false, reflect.ValueOf(*c), reflect.ValueOf(*next)) {
		if !equal {
			changes = append(changes, change)
		}
	}
	return changes
}

// compare yields every key under two values of one struct type.
func compare(prefix string, restart bool, a, b reflect.Value) iter.Seq2[Change, bool] {
	return func(yield func(Change, bool) bool) {
		for i := range a.NumField() {
			tag := a.Type().Field(i).Tag
			change := Change{prefix + tag.Get("toml"), restart || tag.Get("restart") == "yes"}
			if a.Field(i).Kind() != reflect.Struct {
				if !yield(change, same(a.Field(i), b.Field(i))) {
					return
				}
				continue
			}
			for nested, equal := range compare(change.Key+".", change.Restart, a.Field(i), b.Field(i)) {
				if !yield(nested, equal) {
					return
				}
			}
		}
	}
}

// same holds a list or table that is empty for equal to one that is absent.
func same(a, b reflect.Value) bool {
	if k := a.Kind(); (k == reflect.Slice || k == reflect.Map) && a.Len() == 0 && b.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}
