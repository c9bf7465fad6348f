package debian

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

const (
	stanzas = `# The usual.
Types: deb deb-src
URIs: http://one.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/archive.gpg

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://sources.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://two.example/security
 http://three.example/security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----
`
	oneLine = `
deb [ arch=amd64 signed-by=/k.gpg ] http://one.example/debian bookworm main non-free # a comment
deb-src http://one.example/debian bookworm main
# deb http://off.example/debian bookworm main
deb [trusted=yes] http://one.example/security bookworm-security main
deb http://vendor.example/apt stable main
deb http://cut.example/
deb [open http://cut.example/ a b
`
)

func machine(list, sources string) fstest.MapFS {
	return fstest.MapFS{
		"etc/apt/sources.list":                     {Data: []byte(list)},
		"etc/apt/sources.list.d/x.sources":         {Data: []byte(sources)},
		"etc/apt/sources.list.d/y.sources.disable": {Data: []byte(stanzas)},
		"etc/os-release":                           {Data: []byte("ID=debian\nVERSION_CODENAME=\"bookworm\"\n")},
	}
}

func text(sources []Source) string {
	var all strings.Builder
	for _, s := range sources {
		all.WriteString(s.String() + "\n")
	}
	return all.String()
}

func TestSourcesOfBothFormsAreRead(t *testing.T) {
	for _, test := range []struct{ name, list, sources, want string }{
		{"stanzas", "", stanzas, `deb [signed-by=/usr/share/keyrings/archive.gpg] http://one.example/debian bookworm main contrib
deb [signed-by=/usr/share/keyrings/archive.gpg] http://one.example/debian bookworm-updates main contrib
deb http://two.example/security bookworm-security main
deb http://three.example/security bookworm-security main
`},
		{"lines", oneLine, "", `deb [signed-by=/k.gpg] http://one.example/debian bookworm main non-free
deb http://one.example/security bookworm-security main
deb http://vendor.example/apt stable main
`},
		{"none", "", "", ""},
	} {
		known, err := Known(machine(test.list, test.sources))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, text(known)); diff != "" {
			t.Errorf("%s:\n%s", test.name, diff)
		}
	}
}

func TestOtherReleasesComeFromTheSameArchives(t *testing.T) {
	root := machine(oneLine, "")
	known, err := Known(root)
	if err != nil {
		t.Fatal(err)
	}
	codename, err := Codename(root)
	if err != nil || codename != "bookworm" {
		t.Fatalf("release is %q, %v", codename, err)
	}
	got, err := Translate(known, codename, "bullseye-security", "trixie-backports", "sid")
	if err != nil {
		t.Fatal(err)
	}
	want := `deb http://one.example/security bullseye-security main
deb [signed-by=/k.gpg] http://one.example/debian trixie-backports main
deb [signed-by=/k.gpg] http://one.example/debian sid main
`
	if diff := cmp.Diff(want, text(got)); diff != "" {
		t.Error(diff)
	}
}

func TestMachineOfAnotherDistributionIsRefused(t *testing.T) {
	for name, known := range map[string][]Source{
		"another release": {{URI: "http://x.example", Suite: "noble", Components: []string{"main"}}},
		"no main":         {{URI: "http://x.example", Suite: "bookworm", Components: []string{"contrib"}}},
		"nothing":         nil,
	} {
		if got, err := Translate(known, "bookworm", "trixie"); err == nil {
			t.Errorf("%s: got %q", name, text(got))
		}
	}
	if name, err := Codename(fstest.MapFS{"etc/os-release": {Data: []byte("ID=other\n")}}); err == nil {
		t.Errorf("release without a name is %q", name)
	}
}

func TestOtherSourcesMakeListsStale(t *testing.T) {
	folder := t.TempDir()
	one, other := []Source{{URI: "http://one.example"}}, []Source{{URI: "http://two.example"}}
	fresh := func(sources []Source) bool {
		a, err := Open(folder, sources)
		if err != nil {
			t.Fatal(err)
		}
		return a.fresh()
	}
	if fresh(one) {
		t.Error("lists that were never read are fresh")
	}
	a, err := Open(folder, one)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.read(); err != nil {
		t.Fatal(err)
	}
	if !fresh(one) {
		t.Error("lists that were just read are stale")
	}
	if fresh(other) {
		t.Error("lists of other sources are fresh")
	}
}

func TestSuiteThatIsGoneIsToldFromOneThatIsNotReached(t *testing.T) {
	const (
		away    = "E: The repository 'x bullseye-security Release' does not have a Release file.\n"
		dropped = "E: The repository 'x bullseye-security Release' no longer has a Release file.\n"
		failed  = "E: Failed to fetch x  Could not connect\nE: Some index files failed to download.\n"
	)
	for said, want := range map[string]bool{
		away: true, "N: a note\n" + away + dropped: true, failed: false, away + failed: false, failed + away: false, "W: a warning\n": false, "": false,
	} {
		if got := gone(said); got != want {
			t.Errorf("%q: got %t", said, got)
		}
	}
}

func TestComplaintOfAptIsQuoted(t *testing.T) {
	said := "Reading package lists...\nE: The repository 'x' has no Release file.\nE: Second.\n"
	if got, want := complaint(said), ": The repository 'x' has no Release file."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := complaint("W: nothing bad\n"); got != "" {
		t.Errorf("got %q of a warning", got)
	}
}
