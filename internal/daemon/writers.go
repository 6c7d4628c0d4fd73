package daemon

import "sync"

// writers has a lock for each map that somebody writes now, by its id: one writer
// of a map at a time, so that if compares what is written over.
type writers struct {
	mu   sync.Mutex
	maps map[uint32]*writer
}

type writer struct {
	sync.Mutex
	users int // that have it or wait for it
}

// lock waits until nobody else of ours writes the map, and returns what ends it.
func (w *writers) lock(id uint32) (unlock func()) {
	w.mu.Lock()
	if w.maps == nil {
		w.maps = make(map[uint32]*writer)
	}
	one := w.maps[id]
	if one == nil {
		one = new(writer)
		w.maps[id] = one
	}
	one.users++
	w.mu.Unlock()

	one.Lock()
	return func() {
		one.Unlock()
		w.mu.Lock()
		defer w.mu.Unlock()
		if one.users--; one.users == 0 {
			delete(w.maps, id)
		}
	}
}
