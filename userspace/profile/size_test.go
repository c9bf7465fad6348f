package profile

import (
	"fmt"
	"strings"
	"testing"
)

// manyRanges is a profile with n /24 prefixes, each in the form that item gives
// for its number.
func manyRanges(n int, item func(i int) string) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(item(i))
	}
	return strings.Replace(valid, first, b.String(), 1)
}

func asRange(i int) string {
	return fmt.Sprintf(`{"start":%d,"end":%d}`, 1<<24+i<<8, 1<<24+i<<8+255)
}

func asPrefix(i int) string { return fmt.Sprintf(`"%d.%d.%d.0/24"`, 1+i>>16, i>>8&0xff, i&0xff) }

func TestManyRangesAreAccepted(t *testing.T) {
	const n = 100_000
	got := mustParse(t, manyRanges(n, asRange)).Policy.Rules[0].Addrs
	diff(t, len(got), n+1)
	diff(t, got[0].String(), "1.0.0.0-1.0.0.255")
	diff(t, got[n-1].String(), "2.134.159.0-2.134.159.255")
}

func TestMoreRangesThanTheLimitAreRejected(t *testing.T) {
	d := &document{text: []byte(`[1, 2, 3]`), ranges: maxRanges - 1}
	diff(t, len(addrs(d.root())), 1)
	diff(t, d.problems, []Problem{{Pointer: "/1", Value: "2", Want: "at most 2000000 address ranges in all", Offset: 4}})
}

func BenchmarkParse(b *testing.B) {
	for _, form := range []struct {
		name string
		item func(int) string
	}{{"range", asRange}, {"prefix", asPrefix}} {
		for _, n := range []int{10, 10_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s/%d", form.name, n), func(b *testing.B) {
				text := manyRanges(n, form.item)
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := Parse(strings.NewReader(text)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
