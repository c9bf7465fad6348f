package mmsg

import "testing"

func TestTrainsHoldWhatTheKernelTakes(t *testing.T) {
	many := func(n, size int) (batch [][]byte) {
		for range n {
			batch = append(batch, make([]byte, size))
		}
		return batch
	}
	tests := map[string]struct {
		batch       [][]byte
		largest     int
		count, size int
	}{
		"one":                    {many(1, 100), TrainSize, 1, 100},
		"equal ones":             {many(10, 100), TrainSize, 10, 1000},
		"a shorter one ends it":  {append(many(2, 100), make([]byte, 50), make([]byte, 50)), TrainSize, 3, 250},
		"a longer one is next":   {append(many(2, 100), make([]byte, 101)), TrainSize, 2, 200},
		"an empty one is next":   {append(many(2, 100), nil), TrainSize, 2, 200},
		"an empty one alone":     {[][]byte{nil, nil}, TrainSize, 1, 0},
		"not more than it takes": {many(100, 100), TrainSize, TrainLength, 100 * TrainLength},
		"not longer than IP":     {many(60, 1400), TrainSize, 46, 46 * 1400},
		"too long for trains":    {many(3, 1400), 1399, 1, 1400},
	}
	for name, test := range tests {
		if count, size := Train(test.batch, test.largest); count != test.count || size != test.size {
			t.Errorf("%s: %d datagrams of %d bytes, want %d of %d", name, count, size, test.count, test.size)
		}
	}
}
