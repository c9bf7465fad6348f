package kernel

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/bpfacq/bpfacq/test/vm/debian"
)

func TestNewestPackageOfASeriesIsChosen(t *testing.T) {
	names := []string{
		"linux-image-5.10.0-9-cloud-amd64", "linux-image-5.10.0-46-cloud-amd64", "linux-image-5.10.0-46-cloud-amd64-dbg",
		"linux-image-5.10.0-47-amd64", "linux-image-5.10.0-48-cloud-arm64", "linux-image-5.10.0-49-cloud-amd64-unsigned",
		"linux-image-cloud-amd64", "linux-image-6.1-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64",
		"linux-image-6.12.95+deb12-cloud-amd64", "linux-image-6.12.117+deb12-cloud-amd64", "linux-image-6.12.107+deb13-cloud-amd64",
		"linux-image-7.3.4+deb13-cloud-amd64", "linux-binary-7.3.4+deb13-cloud-amd64", "linux-modules-7.3.4+deb13-cloud-amd64",
		"linux-image-7.3.10+deb13-rt-amd64", "linux-headers-9.9.9+deb13-cloud-amd64",
	}
	for _, test := range []struct{ series, real, want string }{
		{"5.10", "5.10", "linux-image-5.10.0-46-cloud-amd64"},
		{"6.1", "6.1", "linux-image-6.1.0-56-cloud-amd64"},
		{"6.12", "6.12", "linux-image-6.12.117+deb12-cloud-amd64"},
		{"7.3", "7.3", "linux-binary-7.3.4+deb13-cloud-amd64 linux-modules-7.3.4+deb13-cloud-amd64"},
		{Newest, "7.3", "linux-binary-7.3.4+deb13-cloud-amd64 linux-modules-7.3.4+deb13-cloud-amd64"},
		{"6.18", "", ""},
		{"6", "", ""},
		{"", "", ""},
	} {
		for range 2 { // in whatever order apt has them
			slices.Reverse(names)
			real, packages, ok := Choose(names, test.series)
			if got := strings.Join(packages, " "); got != test.want || real != test.real || ok != (test.want != "") {
				t.Errorf("series %q: got %q of %q, %t, want %q", test.series, got, real, ok, test.want)
			}
		}
	}
	if _, packages, ok := Choose(nil, Newest); ok {
		t.Errorf("of nothing %q was chosen", packages)
	}
}

// bzImage returns an image with one sector of setup beside the first.
func bzImage(payload string) []byte {
	image := make([]byte, 2*512+16+len(payload)+4)
	image[0x1f1] = 1
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(image[0x206:], 0x20f)
	binary.LittleEndian.PutUint32(image[0x248:], 16)
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(payload)+4))
	copy(image[2*512+16:], payload)
	return image
}

func TestPayloadOfAnImageIsFound(t *testing.T) {
	if got, err := payload(bzImage("compressed kernel")); string(got) != "compressed kernel" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	for _, test := range []struct {
		name   string
		change func([]byte) []byte
	}{
		{"empty", func([]byte) []byte { return nil }},
		{"cut", func(b []byte) []byte { return b[:len(b)-5] }},
		{"not an image", func(b []byte) []byte { b[0x202] = 'x'; return b }},
		{"old protocol", func(b []byte) []byte { binary.LittleEndian.PutUint16(b[0x206:], 0x207); return b }},
		{"far offset", func(b []byte) []byte { binary.LittleEndian.PutUint32(b[0x248:], 1<<31); return b }},
		{"no length", func(b []byte) []byte { binary.LittleEndian.PutUint32(b[0x24c:], 3); return b }},
	} {
		if got, err := payload(test.change(bzImage("compressed kernel"))); err == nil {
			t.Errorf("%s: got %q", test.name, got)
		}
	}
}

func TestCompressionIsKnownByItsMagic(t *testing.T) {
	for begin, want := range map[string]string{
		"\x28\xb5\x2f\xfd": "zstd", "\x02\x21\x4c\x18": "lz4", "\xfd7zXZ\x00": "xz", "\x1f\x8b": "gzip",
	} {
		if command, err := decompressor([]byte(begin + "rest")); err != nil || command[0] != want {
			t.Errorf("%x: got %q, %v, want %s", begin, command, err, want)
		}
	}
	for _, begin := range []string{"", "\x7fELF", "BZh"} {
		if command, err := decompressor([]byte(begin)); err == nil {
			t.Errorf("%q: got %q", begin, command)
		}
	}
}

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	needs := map[string][]string{
		"net/nft_tproxy.ko.xz":       {"nf_tables", "nf-defrag-ipv4"},
		"net/nf_tables.ko":           {"nfnetlink"},
		"net/nf_defrag_ipv4.ko":      nil,
		"net/nfnetlink.ko.zst":       {"built_in"},
		"drivers/loop_a.ko":          {"loop_b"},
		"drivers/loop_b.ko":          {"loop_a"},
		"drivers/never-asked-for.ko": nil,
	}
	folder := fstest.MapFS{"modules.builtin": {}, "net/notes.koala": {}}
	for path := range needs {
		folder[path] = &fstest.MapFile{}
	}
	read := func(path string) (module, error) {
		found, ok := needs[path]
		if !ok {
			t.Errorf("%s is read", path)
		}
		return module{needs: found}, nil
	}
	order, err := inOrder(folder, []string{"nft-tproxy", "loop_a", "nf_tables", "absent"}, read)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range order {
		names = append(names, m.name)
	}
	if want := []string{"nfnetlink", "nf_tables", "nf_defrag_ipv4", "nft_tproxy", "loop_b", "loop_a"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}

	broken := errors.New("break off")
	if _, err := inOrder(folder, []string{"nf_tables"}, func(string) (module, error) { return module{}, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

func TestNeedsAreReadFromModinfo(t *testing.T) {
	for modinfo, want := range map[string]string{
		"license=GPL\x00depends=a,b_c\x00name=x\x00": "a b_c",
		"depends=\x00": "",
		"nodepends=a":  "",
	} {
		if got := strings.Join(parseNeeds(modinfo), " "); got != want {
			t.Errorf("%q: got %q, want %q", modinfo, got, want)
		}
	}
	if _, err := needed([]byte("not a module")); err == nil {
		t.Error("what is no module was read")
	}
	own, err := os.ReadFile("/proc/self/exe") // an ELF file, but no module
	if err != nil {
		t.Fatal(err)
	}
	if needs, err := needed(own); err == nil {
		t.Errorf("a program needs %q", needs)
	}
}

func TestKeptKernelFollowsItsPackages(t *testing.T) {
	kept := digest([]string{"/x/a_1_amd64.deb"})
	if kept != digest([]string{"/y/a_1_amd64.deb"}) {
		t.Error("the place of the package matters")
	}
	if kept == digest([]string{"/x/a_2_amd64.deb"}) || kept == digest([]string{"/x/a_1_amd64.deb", "/x/b"}) {
		t.Error("another version, or one more package, makes no difference")
	}
}

func TestOnlyKernelsOfOlderPackagesAreRemoved(t *testing.T) {
	folder := t.TempDir()
	for _, name := range []string{"6.1-new-a", "6.1-new-b", "6.1-old-a", "6.12-old-a"} {
		if err := os.MkdirAll(filepath.Join(folder, name, "modules"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeOthers(filepath.Join(folder, "6.1-"), filepath.Join(folder, "6.1-new")); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range left {
		left[i] = filepath.Base(left[i])
	}
	if want := []string{"6.1-new-a", "6.1-new-b", "6.12-old-a"}; !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
}

func TestUnpackedKernelIsKeptReadyToBoot(t *testing.T) {
	root, made := t.TempDir(), filepath.Join(t.TempDir(), "made")
	write := func(path string, content []byte) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	const kernel = "\x7fELF kernel"
	write("usr/lib/modules/6.1.0-1/modules.builtin", nil)
	if err := fill(t.Context(), root, made, nil); err == nil {
		t.Error("packages without a kernel were taken")
	}
	write("boot/vmlinuz-6.1.0-1", bzImage(compressed(t, kernel)))
	if err := fill(t.Context(), root, made, []string{"veth"}); err != nil {
		t.Fatal(err)
	}
	k, err := open(made, "6.1")
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(k.Image)
	if k.Series != "6.1" || k.Release != "6.1.0-1" || len(k.Modules) != 0 || string(image) != kernel || err != nil {
		t.Errorf("got %+v, %q, %v", k, image, err)
	}
	write("usr/lib/modules/6.1.0-1/vmlinuz", nil)
	if err := fill(t.Context(), root, made, nil); err == nil {
		t.Error("of two kernels one was taken")
	}
}

func compressed(t *testing.T, content string) string {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// What was not reached may have the kernel, or a newer one.
func TestArchiveThatWasNotReachedHidesKernels(t *testing.T) {
	names := []string{"linux-image-6.1.0-56-cloud-amd64"}
	away, gone := errors.New("connect: refused"), fmt.Errorf("%w: x", debian.ErrGone)
	for _, test := range []struct {
		series     string
		lists      error
		exact      string // empty: none
		notOffered bool
	}{
		{"6.1", nil, "6.1", false},
		{"6.1", gone, "6.1", false},
		{"6.1", away, "6.1", false},
		{Newest, nil, "6.1", false},
		{Newest, gone, "6.1", false},
		{Newest, away, "", false},
		{"5.10", nil, "", true},
		{"5.10", gone, "", true},
		{"5.10", away, "", false},
	} {
		exact, _, err := (&Store{lists: test.lists}).choose(names, test.series)
		if exact != test.exact || (err == nil) != (test.exact != "") || errors.Is(err, ErrNotOffered) != test.notOffered {
			t.Errorf("%s with lists %v: got %q, %v", test.series, test.lists, exact, err)
		}
	}
}
