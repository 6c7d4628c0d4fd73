package lsm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
)

func TestPlaceOf(t *testing.T) {
	testenv.RequireRoot(t)
	there := testenv.Cgroup(t)
	root := testenv.CgroupRoot(t)
	want, err := placeOf(there)
	if err != nil || want.Parent == 0 || want.Name[0] == 0 {
		t.Fatalf("%+v, %v", want, err)
	}
	if got, err := placeOf(root); err != nil || got != (place{}) {
		t.Errorf("the root cgroup is %+v, %v, want nothing", got, err)
	}
	if err := os.Remove(there); err != nil {
		t.Fatal(err)
	}
	got, err := placeOf(there + "/")
	if mkErr := os.Mkdir(there, 0o755); mkErr != nil { // the test's cleanup wants it
		t.Fatal(mkErr)
	}
	if err != nil || got != want {
		t.Errorf("before it is there: %+v, %v, want %+v", got, err, want)
	}
	if got, err := placeOf(filepath.Join(there, "a/b")); !errors.Is(err, fs.ErrNotExist) || remedy.Of(err) == "" {
		t.Errorf("without its parent: %+v, %v, want an error with a remedy", got, err)
	}
	most := strings.Repeat("m", 62)
	if got, err := placeOf(filepath.Join(root, most)); err != nil || string(got.Name[:62]) != most {
		t.Errorf("the longest name: %+v, %v", got, err)
	}
	// The guard reads no more of it, and of one that begins like it.
	if got, err := placeOf(filepath.Join(root, most+"m")); err == nil || remedy.Of(err) == "" {
		t.Errorf("a name that begins like longer ones: %+v, %v, want an error with a remedy", got, err)
	}
	for _, dir := range []string{"/tmp", "/tmp/nothing", "/"} {
		if got, err := placeOf(dir); err == nil {
			t.Errorf("%s, which is no cgroup: %+v", dir, got)
		}
	}
}
