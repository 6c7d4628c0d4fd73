package daemon

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	lsm "github.com/hornetd/hornetd/lsm-module"
)

// What is no event ends nothing; that nothing can be read any more is told. A guard that ends has ended.
func TestListen(t *testing.T) {
	for ends, told := range map[error]bool{unix.EIO: true, lsm.ErrClosed: false, lsm.ErrFlushed: false} {
		d, all := newRecorder(t)
		said := []error{nil, fmt.Errorf("x: %w", lsm.ErrNoEvent), nil, ends}
		i := 0
		d.listen(func() (lsm.Event, error) {
			i++
			return lsm.Event{Deed: lsm.DeedBPF, Detail: uint32(i)}, said[i-1]
		})
		if n := len(all()); n != 2 {
			t.Errorf("%v: %d events are on record, want 2", ends, n)
		}
		if err := d.unarmed; (err != nil) != told || told && (!errors.Is(err, ends) || remedy.Of(err) == "") {
			t.Errorf("%v: told %v", ends, err)
		}
	}
}
