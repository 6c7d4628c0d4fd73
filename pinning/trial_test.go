package pinning

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestOnTrialIsNotKnown: where no descriptor can be had it is not said that there is
// nothing to go back to, on which a start would take it away.
func TestOnTrialIsNotKnown(t *testing.T) {
	s := open(t, bpffs(t))
	commit(t, s, "a")
	o := newObjects(t)
	defer o.close()
	st, err := s.Restage(name(t, "a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := stageAll(st, o); err != nil {
		t.Fatal(err)
	}
	r := o.record(name(t, "a"))
	r.Trial = st.ID()
	if err := st.Supersede(); err != nil {
		t.Fatal(err)
	}
	defer s.Remove(name(t, "a"))
	defer s.Confirm(r)
	if on, err := s.OnTrial(r); !on || err != nil {
		t.Fatalf("on trial %v, %v", on, err)
	}

	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	none := was
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	on, err := s.OnTrial(r)
	if limitErr := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); limitErr != nil {
		t.Fatal(limitErr)
	}
	if on || !Unanswered(err) {
		t.Errorf("without descriptors: on trial %v, %v; want an error that says that nobody knows", on, err)
	}
	if on, err := s.OnTrial(r); !on || err != nil {
		t.Errorf("on trial %v, %v", on, err)
	}
}
