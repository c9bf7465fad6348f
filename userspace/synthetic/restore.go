package synthetic

import (
	"container/heap"
	"log/slog"
)

// recall says what became of a record of the log.
type recall uint8

const (
	recalled recall = iota
	replaced        // as well, and an earlier record counts no more
	foreign         // its address is not in the pool, or is reserved; or the pool is full
)

// restore fills the pool from the log, and makes the log ready. A log that
// cannot be made ready is left to the first Assign.
func (p *Pool) restore() error {
	var outcomes [foreign + 1]int
	found, err := p.ledger.replay(func(r record) { outcomes[p.recall(r)]++ })
	if err != nil {
		return err
	}
	for _, b := range p.numbers {
		p.live += b.size(p.span)
		heap.Push(&p.idle, b)
	}
	if n := outcomes[foreign]; n > 0 {
		p.log.Info("names have addresses outside of the pool", slog.Int("names", n))
	}
	if !found.whole() {
		p.lament(found)
	}
	if found.whole() && outcomes[replaced] == 0 { // foreign ones may be wanted again
		err = p.ledger.resume(found.size)
	} else {
		err = p.ledger.rewrite(p.records())
	}
	if err != nil {
		p.log.Warn("synthetic addresses are not recorded", slog.Any("error", err))
	}
	p.stats.LogSize, p.stats.LogErr = p.ledger.size, err
	return nil
}

// recall puts a record of the log into the pool. What comes later in the log
// counts, for the name as for the number.
func (p *Pool) recall(r record) recall {
	n, ok := p.span.number(r.addr)
	if !ok || p.span.reserved[n] {
		return foreign
	}
	outcome := recalled
	for _, was := range []*binding{p.names[r.name], p.numbers[n]} {
		if was != nil {
			delete(p.names, was.name)
			delete(p.numbers, was.number)
			outcome = replaced
		}
	}
	if len(p.numbers) == p.span.capacity {
		return foreign
	}
	p.serial++
	b := &binding{name: r.name, number: n, serial: p.serial, quiet: answerLife, place: nowhere}
	p.names[r.name], p.numbers[n] = b, b
	p.next, p.highest = n+1, max(p.highest, n)
	return outcome
}

// lament says what the log has lost. Addresses that were given out and are
// nobody's now may be those of the lost names, and rest until no application can
// know them.
func (p *Pool) lament(found *survey) {
	if found.torn > 0 {
		p.log.Info("last write to synthetic addresses was cut short", slog.Int64("bytes", found.torn))
	}
	if found.damaged == 0 {
		return
	}
	p.shaky = answerLife + Rest
	for _, l := range found.lost {
		p.log.Warn("name of a synthetic address lost", slog.Int("line", l.number), slog.String("text", l.text))
	}
	p.log.Warn("synthetic addresses damaged", slog.String("path", p.ledger.path), slog.Int("lines", found.damaged))
	if err := p.ledger.keep(); err != nil {
		p.log.Warn("synthetic addresses damaged", slog.Any("error", err))
	}
}
