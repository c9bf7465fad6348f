package dns

import (
	"slices"
	"sync/atomic"
	"time"
)

// bounds are those of a histogram's buckets, in microseconds.
const bounds = 16

func boundsInMicroseconds() [bounds]int64 {
	return [bounds]int64{
		50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000,
		100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000,
	}
}

// histogram counts durations. Its methods may be called concurrently.
type histogram struct {
	counts [bounds + 1]atomic.Uint64
	sum    atomic.Int64 // nanoseconds
}

func (h *histogram) add(d time.Duration) {
	limits := boundsInMicroseconds()
	i, _ := slices.BinarySearchFunc(limits[:], d, func(bound int64, d time.Duration) int {
		return int(time.Duration(bound)*time.Microsecond - d)
	})
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

func (h *histogram) latency() Latency {
	l := Latency{Sum: time.Duration(h.sum.Load()), Buckets: make([]LatencyBucket, bounds)}
	for i, bound := range boundsInMicroseconds() {
		l.Count += h.counts[i].Load()
		l.Buckets[i] = LatencyBucket{Bound: time.Duration(bound) * time.Microsecond, Count: l.Count}
	}
	l.Count += h.counts[bounds].Load()
	return l
}

// Quantile estimates the duration below which a part of all lies, such as 0.99:
// the upper bound of its bucket. It is 0 if there is none.
func (l Latency) Quantile(part float64) time.Duration {
	if l.Count == 0 || len(l.Buckets) == 0 {
		return 0
	}
	for _, bucket := range l.Buckets {
		if float64(bucket.Count) >= part*float64(l.Count) {
			return bucket.Bound
		}
	}
	return l.Buckets[len(l.Buckets)-1].Bound
}
