package synthetic

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func openBench(b *testing.B, opts Options) *Pool {
	b.Helper()
	p, err := Open(opts)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.Close() })
	return p
}

// slowDisk takes its time for each fsync.
func slowDisk(fsync time.Duration) *disk {
	d := new(disk)
	d.set(func(operation string) error {
		if operation == "sync" {
			<-time.After(fsync)
		}
		return nil
	})
	return d
}

// BenchmarkNewNames gives addresses to ten thousand names, by as many callers
// as there are queries under way.
func BenchmarkNewNames(b *testing.B) {
	const names = 10_000
	for _, bench := range []struct {
		callers int
		disk    *disk
		name    string
	}{
		{1, new(disk), "this disk"}, {32, new(disk), "this disk"}, {256, new(disk), "this disk"},
		{256, slowDisk(10 * time.Millisecond), "10 ms disk"}, {256, slowDisk(30 * time.Millisecond), "30 ms disk"},
	} {
		b.Run(fmt.Sprintf("%s/callers=%d", bench.name, bench.callers), func(b *testing.B) {
			count := min(names, 1000*bench.callers)
			waits := make([]time.Duration, count)
			var syncs uint64
			for b.Loop() {
				p := openBench(b, Options{Path: b.TempDir() + "/log", IPv4: wide, open: bench.disk.open})
				var group sync.WaitGroup
				for caller := range bench.callers {
					group.Go(func() {
						for i := caller; i < count; i += bench.callers {
							start := time.Now()
							if _, err := p.Assign(b.Context(), fmt.Sprintf("host%d.corp.example", i)); err != nil {
								b.Error(err)
							}
							waits[i] = time.Since(start)
						}
					})
				}
				group.Wait()
				syncs += p.Stats().Syncs
				p.Close()
			}
			slices.Sort(waits)
			b.ReportMetric(float64(count)*float64(b.N)/b.Elapsed().Seconds(), "names/s")
			b.ReportMetric(float64(syncs)/float64(b.N), "syncs")
			b.ReportMetric(waits[count/2].Seconds()*1000, "p50-ms")
			b.ReportMetric(waits[count*99/100].Seconds()*1000, "p99-ms")
		})
	}
}

// fullOf opens a pool in which many names have addresses.
func fullOf(b *testing.B, names int) (*Pool, []string) {
	b.Helper()
	pl := b.TempDir() + "/log"
	known := make([]string, names)
	for i := range known {
		known[i] = fmt.Sprintf("host%d.corp.example", i)
	}
	var group sync.WaitGroup
	p := openBench(b, Options{Path: pl, IPv4: wide, IPv6: ula})
	for caller := range 256 {
		group.Go(func() {
			for i := caller; i < names; i += 256 {
				p.Assign(b.Context(), known[i])
			}
		})
	}
	group.Wait()
	return p, known
}

func BenchmarkKnownName(b *testing.B) {
	p, known := fullOf(b, 10_000)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			name := known[i%len(known)]
			if _, err := p.Assign(b.Context(), name); err != nil {
				b.Error(err)
			}
			p.Answered(name, time.Now().Add(30*time.Second))
		}
	})
}

func BenchmarkFlow(b *testing.B) {
	p, known := fullOf(b, 10_000)
	addrs := make([]netip.Addr, len(known))
	for i, name := range known {
		addr, _ := p.Lookup(name)
		addrs[i] = addr.IPv4
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			release, ok := p.Hold(addrs[i%len(addrs)])
			if _, named := p.Name(addrs[i%len(addrs)]); !ok || !named {
				b.Error("an address is nobody's")
			}
			release()
		}
	})
}

// BenchmarkOpen reads the log of a full pool.
func BenchmarkOpen(b *testing.B) {
	path := b.TempDir() + "/log"
	l, err := openLedger(path, nil)
	if err != nil {
		b.Fatal(err)
	}
	s, err := newSpan(wide, netip.Prefix{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	err = l.rewrite(func(yield func(record) bool) {
		for n := range s.last {
			if !yield(record{s.address(n + 1).IPv4, fmt.Sprintf("host%d.corp.example", n)}) {
				return
			}
		}
	})
	l.close()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		p, err := Open(Options{Path: path, IPv4: wide})
		if err != nil {
			b.Fatal(err)
		}
		if used := p.Stats().Used; used != 65534 {
			b.Fatalf("%d names are in use", used)
		}
		p.Close()
	}
}

func BenchmarkReplay(b *testing.B) {
	text := logOf(slices.Repeat([]string{"6.6.123.123 host12345.corp.example"}, 10_000)...)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := replay(strings.NewReader(text), func(record) {}); err != nil {
			b.Fatal(err)
		}
	}
}
