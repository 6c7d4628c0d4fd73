package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/loader"
)

// What is judged is the file that was looked into, wherever its name leads by now.
func TestOwnCode(t *testing.T) {
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	at := func(path, seen string) loader.Target {
		var st unix.Stat_t
		if err := unix.Stat(seen, &st); err != nil {
			t.Fatal(err)
		}
		return loader.Target{Kind: "perf_event", Executable: path, Inode: st.Ino, Device: st.Dev}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(own, link); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what         string
		target       loader.Target
		denied, gone bool
	}{
		{"a tracepoint", loader.Target{Kind: "perf_event", Tracepoint: "sched/sched_switch"}, false, false},
		{"another file", at("/bin/true", "/bin/true"), false, false},
		{"hornetd", at(link, own), true, false},
		{"hornetd, which was another", at(link, "/bin/true"), false, true},
		{"another, which was hornetd", at("/bin/true", own), false, true},
		{"none, which was hornetd", at(link+"x", own), false, true},
	} {
		err := new(Daemon).ownCode([]loader.Target{tt.target})
		var e *api.Error
		if denied := errors.As(err, &e) && e.Kind == api.KindDenied; denied != tt.denied || errors.Is(err, loader.ErrAbsent) != tt.gone || (err != nil) != (tt.denied || tt.gone) {
			t.Errorf("%s: %v", tt.what, err)
		}
		if err != nil && remedy.Of(err) == "" {
			t.Errorf("%s: %v, and no remedy", tt.what, err)
		}
	}
}
