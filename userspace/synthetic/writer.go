package synthetic

import (
	"bytes"
	"cmp"
	"iter"
	"log/slog"
	"slices"
	"time"
)

// The log is written anew when it is this many times larger than what lives of
// it, and some bytes more.
const (
	maxBloat     = 4
	defaultSlack = 64 << 10
)

// retryPause is how long the log is left alone after it could not be written
// anew: callers get the same error meanwhile.
const retryPause = time.Second

// write records batches until the pool is closed.
func (p *Pool) write() {
	for range p.wake {
		p.mu.Lock()
		next := p.batch
		p.batch = nil
		p.mu.Unlock()
		if next != nil {
			p.settle(next, p.commit(next))
		}
	}
}

// commit puts a batch on disk. While it runs, more names gather for the next.
func (p *Pool) commit(next *batch) error {
	err := p.refresh()
	if p.ledger.file == nil {
		return p.note(err, 0)
	}
	var lines bytes.Buffer
	for _, b := range next.bindings {
		lines.WriteString(b.record(p.span).line())
	}
	start := p.now()
	err = p.ledger.append(lines.Bytes())
	return p.note(err, p.now().Sub(start))
}

// note keeps the figures of a write, and returns its outcome.
func (p *Pool) note(err error, took time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.LogErr, p.stats.LogSize = err, p.ledger.size
	if err == nil {
		p.stats.Syncs++
		p.stats.SyncTime += took
		p.stats.SyncMax = max(p.stats.SyncMax, took)
	}
	return err
}

// refresh writes the log anew if it is damaged or too large. A log that is only
// large can go on when that fails.
func (p *Pool) refresh() error {
	p.mu.Lock()
	now, live, err := p.clock(), p.live, p.stats.LogErr
	p.mu.Unlock()
	if p.ledger.file != nil && p.ledger.size <= maxBloat*live+p.slack {
		return nil
	}
	if now < p.retry {
		return err
	}
	err = p.ledger.rewrite(p.records())
	if err != nil {
		p.retry = now + retryPause
		if p.ledger.file != nil {
			p.log.Warn("compact synthetic addresses", slog.Any("error", err))
		}
	}
	return err
}

// recorded returns copies of the bindings that are on disk.
func (p *Pool) recorded() []binding {
	p.mu.Lock()
	defer p.mu.Unlock()
	bindings := make([]binding, 0, len(p.numbers))
	for _, b := range p.numbers {
		if b.state != arriving {
			bindings = append(bindings, *b)
		}
	}
	return bindings
}

// records returns what a new log consists of, in the order of the old one.
func (p *Pool) records() iter.Seq[record] {
	bindings := p.recorded()
	slices.SortFunc(bindings, func(a, b binding) int { return cmp.Compare(a.serial, b.serial) })
	return func(yield func(record) bool) {
		for _, b := range bindings {
			if !yield(b.record(p.span)) {
				return
			}
		}
	}
}

func (b *binding) record(s *span) record { return record{s.address(b.number).IPv4, b.name} }

// size is the bytes of a binding in the log.
func (b *binding) size(s *span) int64 { return int64(len(b.record(s).line())) }
