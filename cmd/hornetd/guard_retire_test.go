package main_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestGuardRetire: root sees who is enrolled, and has the guard forget all but who runs, by
// the file wherever it is, or by what was enrolled.
func TestGuardRetire(t *testing.T) {
	testenv.NoLeaks(t)
	h, _ := guarded(t, api.GuardEnforce, "")
	s := signedHost{h, t, t.TempDir()}
	binary := testdaemon.Binary(t, "hornetd")
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	digest := func(file string) string {
		t.Helper()
		sum, _, _ := strings.Cut(run(t, "sha256sum", file), " ")
		return sum
	}
	enrolled := func(what string, want ...string) {
		t.Helper()
		var got []string
		for i, e := range s.mode().Enrolled {
			got = append(got, e.SHA256)
			if e.Running != (i == 0) || e.Inode == 0 || e.Device == "" {
				t.Errorf("%s: %+v is the %d. enrolled", what, e, i+1)
			}
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: enrolled %v, want %v", what, got, want)
		}
	}
	own := digest(binary)
	enrolled("armed", own)
	var st syscall.Stat_t
	if err := syscall.Stat(binary, &st); err != nil || s.mode().Enrolled[0].Inode != st.Ino {
		t.Errorf("%v: %+v, want inode %d", err, s.mode().Enrolled[0], st.Ino)
	}
	if out, _, _ := h.Ctl("guard"); !strings.Contains(out, fmt.Sprintf("Enrolled    %s, inode %d on ", own, st.Ino)) || !strings.Contains(out, ", runs\n") {
		t.Errorf("hornetctl guard shows\n%s", out)
	}
	next, moved := s.write("next", append(program, 'x')), s.path("moved")
	of := digest(next)
	enroll := func(file string) {
		t.Helper()
		if _, stderr, exit := h.Ctl("guard", "enroll", file); exit != 0 {
			t.Fatal(stderr)
		}
	}
	retire := func(what string) {
		t.Helper()
		if _, stderr, exit := h.Ctl("guard", "retire", what); exit != 0 {
			t.Fatal(stderr)
		}
		onRecord(t, h, func(r guardRecord) bool {
			return r.Verb == "guard" && r.Phase == "outcome" && r.Error == "" && r.Reason == "retire "+what
		})
	}
	refused := func(what, like string) {
		t.Helper()
		_, stderr, exit := h.Ctl("guard", "retire", what)
		s.wantRefused("retire "+what, stderr, exit, like)
	}
	enroll(next)
	enrolled("another one", own, of)
	if err := os.Rename(next, moved); err != nil {
		t.Fatal(err)
	}
	refused(next, "no such file")
	refused("/bin/true", "is not enrolled")
	refused(strings.Repeat("0", 64), "is not enrolled")
	refused(binary, "that is the hornetd that answers")
	refused(own, "that is the hornetd that answers")
	enrolled("nothing was retired", own, of)
	retire(strings.ToUpper(of))
	enrolled("by its digest", own)
	enroll(moved)
	retire(moved)
	enrolled("by its file", own)
	if err := os.WriteFile(moved, program, 0o755); err != nil { // which root may again
		t.Error(err)
	}
	enroll(moved)
	enrolled("a copy", own, own)
	retire(own)
	enrolled("the copy", own)

	enroll(moved)
	if err := os.Remove(moved); err != nil {
		t.Error(err)
	}
	eventually(t, "the list without what has no file any more", func() bool { return len(s.mode().Enrolled) == 1 })
	if err := os.WriteFile(moved, program, 0o755); err != nil {
		t.Error(err)
	}

	if _, _, exit := h.CtlAs(1234, "guard", "retire", moved); exit != 3 {
		t.Errorf("another user's: exit %d, want 3", exit)
	}
	for body, want := range map[string]string{
		`{}`: "one of the two", `{"file":"/a","sha256":"ab"}`: "one of the two", `{"file":"a"}`: "absolute path", `{"sha256":"ab"}`: "64 hexadecimal digits", `{"inode":7}`: "inode",
	} {
		if got := s.raw("/v1/guard/retire", body); !strings.Contains(got, `"bad-request"`) || !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %q", body, got, want)
		}
	}

	// While its own file is gone, who else is enrolled is all that can be started.
	enroll(moved)
	kept := filepath.Join(filepath.Dir(binary), "kept")
	if err := errors.Join(os.WriteFile(kept, program, 0o755), os.Rename(kept, binary)); err != nil {
		t.Fatal(err)
	}
	refused(moved, "is gone, so that only the others can be started")
	enrolled("its own file is gone", own, own)
}
