package synthetic

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLogIsReadableText(t *testing.T) {
	pl := newPlace(t, wide)
	p := pl.pool(t)
	for _, name := range []string{"Build.Corp.Example.", `a b\.c."*_%é`, "build.corp.example"} {
		assign(t, p, name)
	}
	closePool(t, p)
	const want = "037b6364 synthetic addresses of bpfacq, version 1\n" +
		"6bedc16b 6.6.0.1 build.corp.example\n" +
		`f903b4d2 6.6.0.2 a\032b\046c."*_%\195\169` + "\n"
	if diff := cmp.Diff(want, pl.text(t)); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if mode, err := os.Stat(pl.Path); err != nil || mode.Mode().Perm() != 0o600 {
		t.Errorf("the log has %v, %v; want it private", mode.Mode(), err)
	}
}

func TestNamesKeepTheirAddressesOverARestart(t *testing.T) {
	pl := newPlace(t, wide)
	pl.IPv6 = ula
	p := pl.pool(t)
	var want []string
	for i := range 300 {
		name := fmt.Sprintf("n%d.example", i)
		want = append(want, assign(t, p, name)+" "+name)
	}
	wantNames(t, p, want...)
	closePool(t, p)
	text := pl.text(t)

	p = pl.pool(t)
	wantNames(t, p, want...)
	wantAssigned(t, p, "n7.example", "6.6.0.8")
	if got := pl.text(t); got != text {
		t.Errorf("a clean log of %d bytes became one of %d", len(text), len(got))
	}
	wantAssigned(t, p, "new.example", "6.6.1.45")
	if pl.said.Len() > 0 {
		t.Errorf("the pool said %s", pl.said)
	}
}

// TestEveryCutOfALogKeepsTheWholeRecords is a crash after any byte.
func TestEveryCutOfALogKeepsTheWholeRecords(t *testing.T) {
	pairs := []string{"6.6.0.1 a.example", "6.6.0.2 b.example", "6.6.0.3 c.example"}
	whole := logOf(pairs...)
	for cut := range len(whole) {
		pl := newPlace(t, wide)
		pl.write(t, whole[:cut])
		kept := max(0, strings.Count(whole[:cut], "\n")-1)
		p := pl.pool(t)
		wantNames(t, p, pairs[:kept:kept]...)
		wantAssigned(t, p, "new.example", fmt.Sprintf("6.6.0.%d", kept+1))
		closePool(t, p)
		if want := logOf(append(pairs[:kept:kept], fmt.Sprintf("6.6.0.%d new.example", kept+1))...); pl.text(t) != want {
			t.Errorf("cut at %d, the log is\n%s", cut, pl.text(t))
		}
		if torn := !strings.HasSuffix(whole[:cut], "\n") && cut > 0; torn != strings.Contains(pl.said.String(), "cut short") {
			t.Errorf("cut at %d, the pool said %s", cut, pl.said)
		}
		if strings.Contains(pl.said.String(), "WARN") {
			t.Errorf("cut at %d, the pool warned: %s", cut, pl.said)
		}
		if t.Failed() {
			break
		}
	}
}

func TestDamagedRecordLosesItsNameAlone(t *testing.T) {
	pairs := []string{"6.6.0.1 a.example", "6.6.0.2 b.example", "6.6.0.3 c.example"}
	line := sealed(pairs[1])
	for name, damaged := range map[string]string{
		"checksum":        "0" + line[1:],
		"address":         strings.Replace(line, "6.6.0.2", "6.6.0.1", 1),
		"name":            strings.Replace(line, "b.example", "a.example", 1),
		"nothing":         "\n",
		"zeros":           string(make([]byte, 30)) + "\n",
		"lost line end":   strings.TrimSuffix(line, "\n") + "x",
		"long":            strings.Repeat("x", 1<<20) + "\n",
		"another meaning": sealed("hello"),
		"IPv6 address":    sealed("fd00:6::2 b.example"),
		"upper case":      sealed("6.6.0.2 B.example"),
		"final dot":       sealed("6.6.0.2 b.example."),
		"no name":         sealed("6.6.0.2 "),
		"second headline": headline(),
	} {
		t.Run(name, func(t *testing.T) {
			pl := newPlace(t, wide)
			text := logOf(pairs[0]) + damaged + sealed(pairs[2])
			pl.write(t, text)
			p := pl.pool(t)
			want := []string{pairs[0], pairs[2]}
			if name == "lost line end" {
				want = want[:1] // two lines became one
			}
			wantNames(t, p, want...)
			closePool(t, p)
			if !strings.Contains(pl.said.String(), `level=WARN msg="name of a synthetic address lost" line=3`) ||
				strings.Count(pl.said.String(), "address lost") != 1 {
				t.Errorf("the pool said %.1000s", pl.said)
			}
			if want := logOf(want...); pl.text(t) != want {
				t.Errorf("the log is now\n%s\nwant\n%s", pl.text(t), want)
			}
			if kept, err := os.ReadFile(pl.Path + ".damaged"); err != nil || string(kept) != text {
				t.Errorf("of %d damaged bytes %d are kept, %v", len(text), len(kept), err)
			}
		})
	}
}

func TestDamagedHeadlineLosesNoName(t *testing.T) {
	pl := newPlace(t, wide)
	pl.write(t, "x"+logOf("6.6.0.1 a.example"))
	p := pl.pool(t)
	wantNames(t, p, "6.6.0.1 a.example")
	closePool(t, p)
	if want := logOf("6.6.0.1 a.example"); pl.text(t) != want {
		t.Errorf("the log is now\n%s", pl.text(t))
	}
}

func TestLogOfALaterReleaseIsLeftAlone(t *testing.T) {
	pl := newPlace(t, wide)
	text := sealed(title+"2") + "{}\n"
	pl.write(t, text)
	p, err := Open(pl.Options)
	if !errors.Is(err, ErrFormat) {
		t.Errorf("open: %v, %v; want ErrFormat", p, err)
	}
	if pl.text(t) != text {
		t.Errorf("the log is now\n%s", pl.text(t))
	}
	pl.write(t, "")
	pl.pool(t) // the folder is not locked
}

func TestLostNamesRestBeforeTheirAddressesAreUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := newPlace(t, tiny)
		pl.write(t, logOf("6.6.0.1 a")+"x\n"+sealed("6.6.0.4 d"))
		p := pl.pool(t)
		wantAssigned(t, p, "e", "6.6.0.5")
		wantAssigned(t, p, "f", "6.6.0.6")
		wantRefused(t, p, "g", ErrFull)
		time.Sleep(Rest)
		wantRefused(t, p, "g", ErrFull)
		time.Sleep(answerLife)
		wantAssigned(t, p, "g", "6.6.0.2")
		wantAssigned(t, p, "h", "6.6.0.3")
	})
}

func TestLaterRecordsCount(t *testing.T) {
	pl := newPlace(t, wide)
	pl.write(t, logOf(
		"6.6.0.1 a", "6.6.0.2 b", "6.6.0.3 c",
		"6.6.0.1 d", // was a's
		"6.6.0.2 c", // moves, and was b's
		"6.6.0.4 a", // is back
		"6.6.0.4 a", // again
	))
	p := pl.pool(t)
	wantNames(t, p, "6.6.0.1 d", "6.6.0.2 c", "6.6.0.4 a")
	wantAssigned(t, p, "e", "6.6.0.5")
	closePool(t, p)
	if want := logOf("6.6.0.1 d", "6.6.0.2 c", "6.6.0.4 a", "6.6.0.5 e"); pl.text(t) != want {
		t.Errorf("the log is now\n%s", pl.text(t))
	}
	if pl.said.Len() > 0 {
		t.Errorf("the pool said %s", pl.said)
	}
}

func TestNamesOutsideOfThePoolHaveNoAddress(t *testing.T) {
	pl := newPlace(t, wide)
	pl.Reserved = []netip.Addr{netip.MustParseAddr("6.6.0.3")}
	text := logOf("6.6.0.1 a", "6.7.0.1 b", "6.6.0.3 c", "6.6.0.0 d", "6.6.255.255 e", "6.6.0.9 f")
	pl.write(t, text)
	p := pl.pool(t)
	wantNames(t, p, "6.6.0.1 a", "6.6.0.9 f")
	wantAssigned(t, p, "b", "6.6.0.10")
	closePool(t, p)
	if want := text + sealed("6.6.0.10 b"); pl.text(t) != want {
		t.Errorf("the log is now\n%s", pl.text(t))
	}
	if !strings.Contains(pl.said.String(), "level=INFO") || !strings.Contains(pl.said.String(), "names=4") {
		t.Errorf("the pool said %s", pl.said)
	}
}

func TestPrefixThatIsPutBackHasItsNames(t *testing.T) {
	pl := newPlace(t, wide)
	p := pl.pool(t)
	wantAssigned(t, p, "a", "6.6.0.1")
	wantAssigned(t, p, "b", "6.6.0.2")
	closePool(t, p)
	pl.IPv4 = netip.MustParsePrefix("10.0.0.0/8")
	p = pl.pool(t)
	wantNames(t, p)
	wantAssigned(t, p, "b", "10.0.0.1")
	closePool(t, p)
	pl.IPv4 = wide
	p = pl.pool(t)
	wantNames(t, p, "6.6.0.1 a", "6.6.0.2 b")
	wantAssigned(t, p, "c", "6.6.0.3")
}

func TestNamesOutsideOfThePoolAreForgottenInTheEnd(t *testing.T) {
	pl := newPlace(t, wide)
	pl.slack = 1
	pl.write(t, logOf("6.7.0.1 a", "6.7.0.2 b"))
	p := pl.pool(t)
	wantAssigned(t, p, "c", "6.6.0.1")
	closePool(t, p)
	if want := logOf("6.6.0.1 c"); pl.text(t) != want {
		t.Errorf("the log is now\n%s", pl.text(t))
	}
}

// FuzzReplay opens arbitrary files. Whatever is read, no address has two names,
// and what was read is what is on disk then.
func FuzzReplay(f *testing.F) {
	for _, text := range []string{
		"", "\n", "x", headline(), logOf("6.6.0.1 a", "6.6.0.1 b", "6.6.0.2 a"), logOf("6.6.0.7 a", "6.6.0.3 a\\032b"),
		logOf("6.6.0.1 a") + "x\n" + sealed("6.6.0.2 b"), sealed(title + "2"),
	} {
		f.Add([]byte(text), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, seal bool) {
		if seal { // so that some lines are whole
			var lines []byte
			for line := range bytes.Lines(text) {
				if _, rest, ok := strings.Cut(strings.TrimSuffix(string(line), "\n"), " "); ok {
					line = []byte(sealed(rest))
				}
				lines = append(lines, line...)
			}
			text = lines
		}
		pl := newPlace(t, tiny)
		pl.disk.lazy = true
		pl.write(t, string(text))
		p, err := Open(pl.Options)
		if errors.Is(err, ErrFormat) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		taken := make(map[netip.Addr]string)
		for name, addr := range p.All() {
			if other, ok := taken[addr.IPv4]; ok {
				t.Errorf("%s is that of %q and of %q", addr.IPv4, name, other)
			}
			taken[addr.IPv4] = name
			found = append(found, addr.IPv4.String()+" "+name)
		}
		if len(found) > p.Stats().Capacity {
			t.Errorf("%d names are in a pool of %d", len(found), p.Stats().Capacity)
		}
		wantNames(t, p, found...)
		closePool(t, p)
		p = pl.pool(t)
		wantNames(t, p, found...)
		closePool(t, p)
	})
}

func TestReplayKeepsLittleOfALargeDamagedLog(t *testing.T) {
	text := strings.NewReader(strings.Repeat("damaged\n", 100_000) + strings.Repeat("x", 1<<20))
	s, err := replay(text, func(r record) { t.Errorf("found %v", r) })
	if err != nil {
		t.Fatal(err)
	}
	if s.damaged != 100_000 || len(s.lost) != maxLost || s.torn != 1<<20 {
		t.Errorf("%d lines are damaged, of %d is said which, %d bytes are torn", s.damaged, len(s.lost), s.torn)
	}
}
