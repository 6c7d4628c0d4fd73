package daemon

import (
	"sync"
	"testing"
	"time"
)

// Writers of one map take turns, and of another do not wait for them.
func TestWriters(t *testing.T) {
	var w writers
	end := w.lock(1)
	second := make(chan func())
	go func() { second <- w.lock(1) }()
	other := make(chan func())
	go func() { other <- w.lock(2) }()
	select {
	case end := <-other:
		end()
	case <-time.After(10 * time.Second):
		t.Fatal("the writer of another map waits")
	}
	select {
	case <-second:
		t.Fatal("two write at once")
	case <-time.After(50 * time.Millisecond):
	}
	end()
	(<-second)()

	var wait sync.WaitGroup
	writing, most := [3]int{}, 0
	for i := range 60 {
		wait.Go(func() {
			for range 100 {
				end := w.lock(uint32(i % 3))
				writing[i%3]++
				if i%3 == 0 {
					most = max(most, writing[0])
				}
				writing[i%3]--
				end()
			}
		})
	}
	wait.Wait()
	if most != 1 || len(w.maps) != 0 {
		t.Errorf("%d at once, %d locks are left", most, len(w.maps))
	}
}
