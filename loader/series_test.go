package loader

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// series is a line of kernels such as 6.12.
type series struct{ major, minor int }

func (s series) String() string { return fmt.Sprintf("%d.%d", s.major, s.minor) }

func (s series) compare(other series) int {
	return cmp.Or(cmp.Compare(s.major, other.major), cmp.Compare(s.minor, other.minor))
}

// parseSeries reads the series that a kernel release or a name begins with.
func parseSeries(text string) (s series, ok bool) {
	n, _ := fmt.Sscanf(text, "%d.%d", &s.major, &s.minor)
	return s, n == 2
}

func runningSeries(t *testing.T) series {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	s, ok := parseSeries(release)
	if !ok {
		t.Fatalf("kernel release is %q", release)
	}
	return s
}

// nearest is the series in a list that stands for another: that one itself, or
// else the newest that is older.
func nearest(known []series, wanted series) (series, bool) {
	older := slices.DeleteFunc(slices.Clone(known), func(s series) bool { return s.compare(wanted) > 0 })
	if len(older) == 0 {
		return series{}, false
	}
	return slices.MaxFunc(older, series.compare), true
}

func TestASeriesStandsForNewerOnesOnly(t *testing.T) {
	known := []series{{5, 10}, {6, 12}, {6, 1}, {7, 3}}
	for _, test := range []struct {
		release, want string
	}{
		{"5.4.0-42", ""},
		{"5.10.262", "5.10"},
		{"5.15.0", "5.10"},
		{"6.9.1", "6.1"},
		{"6.12.117+deb12-cloud-amd64", "6.12"},
		{"7.0-rc1", "6.12"},
		{"10.0", "7.3"},
	} {
		wanted, ok := parseSeries(test.release)
		if !ok {
			t.Fatalf("release %q is not understood", test.release)
		}
		got, found := nearest(known, wanted)
		if found != (test.want != "") || found && got.String() != test.want {
			t.Errorf("%s is compared with %v, %t; want %q", test.release, got, found, test.want)
		}
	}
	if s, ok := parseSeries("linux"); ok {
		t.Errorf("a release without numbers is taken for %v", s)
	}
}
