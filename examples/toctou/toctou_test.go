package main

import (
	"os"
	"testing"

	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == attackArg {
		attackMain()
		return
	}
	testdaemon.Main(m)
}

// The race must be real: an attacker that never wins proves nothing about hornetd.
func TestBareLoadersLose(t *testing.T) {
	testenv.NoLeaks(t)
	a := start(t)
	for name, load := range map[string]func() (uint32, error){
		"check, load":         checkLoad,
		"check, freeze, load": checkFreezeLoad,
	} {
		o, err := race(50, load)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Logf("%s: %+v", name, o)
		if o.wrong == 0 {
			t.Errorf("%s: the attacker did not win once in %d rounds", name, o.rounds())
		}
	}
	s, err := a.stop()
	if err != nil {
		t.Fatal(err)
	}
	if s.Written == 0 || s.Refused == 0 {
		t.Errorf("attacker: %+v, want writes, and refusals by frozen maps", s)
	}
}

// The same attacker, and the manifest as it is in the repository.
func TestHornetdDoesNot(t *testing.T) {
	testenv.NoLeaks(t)
	text, err := os.ReadFile("toctou.toml")
	if err != nil {
		t.Fatal(err)
	}
	h := testdaemon.New(t, "")
	h.Object("toctou.bpf.o", object)
	h.Manifest("toctou", string(text))
	h.Start()
	a := start(t)
	// Until the attacker has been in time once, so that there was something to notice.
	var o outcome
	for o.rounds() < 5000 && o.noticed == 0 {
		more, err := raceHornetd(100, h.Socket)
		if err != nil {
			t.Fatal(err)
		}
		o.noticed, o.right, o.wrong = o.noticed+more.noticed, o.right+more.right, o.wrong+more.wrong
	}
	s, err := a.stop()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v, attacker %+v", o, s)
	if o.wrong != 0 {
		t.Errorf("the attacker won %d times of %d", o.wrong, o.rounds())
	}
	if s.Refused == 0 || o.noticed == 0 {
		t.Error("the attacker was never in time: this proves nothing")
	}
}

func start(t *testing.T) *attacker {
	t.Helper()
	a, err := startAttacker()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.stop() })
	return a
}
