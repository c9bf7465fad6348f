package tunnel

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
)

// TestCallThatMeetsALeaverIsPassedOn wakes the first of two who wait when its
// context has just ended, so that it no longer wants the call.
func TestCallThatMeetsALeaverIsPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var q queue
		ctx, cancel := context.WithCancel(t.Context())
		wait := func(ctx context.Context) <-chan error {
			done := make(chan error, 1)
			go func() {
				mu.Lock()
				defer mu.Unlock()
				done <- q.wait(ctx, &mu)
			}()
			synctest.Wait()
			return done
		}
		first, second := wait(ctx), wait(t.Context())
		mu.Lock()
		cancel()
		q.wake(1)
		mu.Unlock()
		if err := <-first; err == nil {
			t.Error("the first stays")
		}
		if err := <-second; err != nil || q.woken != 0 || len(q.sleepers) != 0 {
			t.Errorf("error %v, %d woken, %d asleep", err, q.woken, len(q.sleepers))
		}
	})
}

func TestQueueWakesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var q queue
		var order []int
		for i := range 5 {
			go func() {
				mu.Lock()
				defer mu.Unlock()
				if err := q.wait(t.Context(), &mu); err != nil {
					t.Error(err)
				}
				order = append(order, i)
			}()
			synctest.Wait()
		}
		for _, n := range []int{-1, 0, 1, 1, 9} {
			mu.Lock()
			q.wake(n)
			mu.Unlock()
			synctest.Wait()
		}
		if len(order) != 5 || order[0] != 0 || order[1] != 1 {
			t.Errorf("order %v", order)
		}
	})
}
