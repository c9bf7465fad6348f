package tunnel

import (
	"context"
	"slices"
	"sync"
)

// queue lets goroutines wait for what a mutex guards, first come, first woken.
// Its methods want that mutex held.
type queue struct {
	sleepers []chan struct{}
	woken    int // and not yet running
}

// wait sleeps until it is woken or ctx ends; the error is the context's cause.
// It releases mu meanwhile.
func (q *queue) wait(ctx context.Context, mu *sync.Mutex) error {
	called := make(chan struct{})
	q.sleepers = append(q.sleepers, called)
	mu.Unlock()
	select {
	case <-called:
		mu.Lock()
		q.woken--
		return nil
	case <-ctx.Done():
	}
	mu.Lock()
	if i := slices.Index(q.sleepers, called); i >= 0 {
		q.sleepers = slices.Delete(q.sleepers, i, i+1)
	} else {
		q.woken--
		q.wake(1) // the call was for whoever can use it
	}
	return context.Cause(ctx)
}

// wake wakes the first n.
func (q *queue) wake(n int) {
	n = min(n, len(q.sleepers))
	for _, called := range q.sleepers[:max(0, n)] {
		close(called)
		q.woken++
	}
	q.sleepers = slices.Delete(q.sleepers, 0, max(0, n))
}

func (q *queue) wakeAll() { q.wake(len(q.sleepers)) }
