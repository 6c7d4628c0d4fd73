package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/safefile"
	"github.com/hornetd/hornetd/internal/testenv"
)

// tree makes files below a fresh directory and returns it. A name that ends
// with / is a directory, one with "->" a symbolic link.
func tree(t *testing.T, names ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range names {
		path, to, link := strings.Cut(filepath.Join(root, name), "->")
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		switch {
		case link:
			must(t, os.Symlink(to, path))
		case strings.HasSuffix(name, "/"):
			must(t, os.Mkdir(path, 0o755))
		default:
			must(t, os.WriteFile(path, []byte("x"), 0o644))
		}
	}
	return root
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Every row has the directories a, b and c, in this order of precedence.
func TestFind(t *testing.T) {
	tests := []struct {
		name   string
		files  []string
		want   []string // NAME FILE DROP-IN...
		errs   []string
		strays []string
	}{
		{name: "nothing"},
		{
			name:  "one order over all directories",
			files: []string{"a/50-m.toml", "b/10-z.toml", "b/90-a.toml", "c/n.toml"},
			want:  []string{"z b/10-z.toml", "m a/50-m.toml", "a b/90-a.toml", "n c/n.toml"},
		},
		{
			name:  "the first directory wins, whatever the order",
			files: []string{"a/90-x.toml", "b/10-x.toml", "c/x.toml", "c/y.toml"},
			want:  []string{"x a/90-x.toml", "y c/y.toml"},
		},
		{
			name:  "masked",
			files: []string{"a/x.toml->/dev/null", "b/10-x.toml", "c/x.toml", "c/y.toml"},
			want:  []string{"y c/y.toml"},
		},
		{
			name:  "a mask behind a file masks nothing",
			files: []string{"a/x.toml", "b/x.toml->/dev/null"},
			want:  []string{"x a/x.toml"},
		},
		{
			name:  "other symbolic links are for safefile to refuse",
			files: []string{"a/x.toml->y"},
			want:  []string{"x a/x.toml"},
		},
		{
			name:  "not manifests",
			files: []string{"a/README", "a/x.bpf.o", "a/x.toml.p7s", "a/x.toml~", "a/.x.toml", "a/.#x.toml", "a/sub/y.toml", "a/z.d/"},
		},
		{
			name:  "twice in one directory",
			files: []string{"a/10-x.toml", "a/20-x.toml", "a/y.toml", "b/x.toml"},
			want:  []string{"y a/y.toml"},
			errs:  []string{"a/20-x.toml: is the same collection as a/10-x.toml"},
		},
		{
			name:  "drop-ins of all directories, in one order",
			files: []string{"a/x.toml.d/20-a.toml", "b/10-x.toml", "b/x.toml.d/30.toml", "c/99-x.toml.d/10.toml", "c/y.toml"},
			want:  []string{"x b/10-x.toml c/99-x.toml.d/10.toml a/x.toml.d/20-a.toml b/x.toml.d/30.toml", "y c/y.toml"},
		},
		{
			name:  "a drop-in takes the place of another, and masks it",
			files: []string{"a/x.toml.d/10.toml", "a/x.toml.d/20.toml->/dev/null", "b/x.toml.d/10.toml", "b/x.toml.d/20.toml", "c/x.toml", "c/x.toml.d/30.toml->y"},
			want:  []string{"x c/x.toml a/x.toml.d/10.toml c/x.toml.d/30.toml"},
		},
		{
			name:  "no drop-ins",
			files: []string{"a/x.toml", "a/x.toml.d/10.toml.p7s", "a/x.toml.d/README", "a/x.toml.d/10.conf", "a/x.toml.d/.10.toml", "a/x.toml.d/sub/10.toml", "b/x.toml.d/"},
			want:  []string{"x a/x.toml"},
		},
		{
			name:   "drop-ins of no manifest",
			files:  []string{"a/x.toml.d/10.toml", "b/x.toml.d/10.toml", "b/y.toml"},
			want:   []string{"y b/y.toml"},
			strays: []string{`a/x.toml.d: there is no manifest of "x": these drop-ins do nothing`, "b/x.toml.d: there is no manifest"},
		},
		{
			name:  "drop-ins of a masked manifest",
			files: []string{"a/x.toml->/dev/null", "b/x.toml", "b/x.toml.d/10.toml"},
		},
		{
			name:  "drop-ins twice in one directory",
			files: []string{"a/x.toml", "b/10-x.toml.d/1.toml", "b/x.toml.d/1.toml", "b/y.toml"},
			want:  []string{"y b/y.toml"},
			errs:  []string{"b/x.toml.d: is the same collection as b/10-x.toml.d"},
		},
		{
			name:  "drop-ins that are no directory",
			files: []string{"a/x.toml", "b/x.toml.d", "b/y.toml", "c/z.toml", "c/z.toml.d->y.toml.d", "c/y.toml.d/"},
			want:  []string{"y b/y.toml"},
			errs:  []string{"b/x.toml.d: drop-ins: open b/x.toml.d: not a directory", "c/z.toml.d: drop-ins: is a symbolic link"},
		},
		{
			name:  "drop-ins of bad names",
			files: []string{"a/t@x.toml.d/1.toml", "a/Bad.toml.d/1.toml", "b/good.toml"},
			want:  []string{"good b/good.toml"},
			errs:  []string{`a/Bad.toml.d: "Bad" is not a name`, "a/t@x.toml.d: is of one instance of a template"},
		},
		{
			name:  "templates",
			files: []string{"a/20-t@.toml", "b/t@.toml", "b/t@.toml.d/1.toml", "c/t.toml"},
			want:  []string{"t@ a/20-t@.toml b/t@.toml.d/1.toml", "t c/t.toml"},
		},
		{
			name:  "bad names",
			files: []string{"a/t@eth0.toml", "a/Bad.toml", "a/100-x.toml", "a/stage-1.toml", "b/good.toml"},
			want:  []string{"good b/good.toml"},
			errs: []string{
				`a/100-x.toml: "100-x" is not a name`, `a/Bad.toml: "Bad" is not a name`,
				"a/stage-1.toml: ", "a/t@eth0.toml: is of one instance of a template",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := tree(t, tt.files...)
			dirs := []string{root + "/a", root + "/b", root + "/c"}
			sources, strays, err := Find(dirs)
			var got []string
			for _, s := range sources {
				got = append(got, s.Name+" "+strings.ReplaceAll(strings.Join(append([]string{s.File}, s.DropIns...), " "), root+"/", ""))
				if one, err := FindOne(dirs, s.Name); err != nil || !cmp.Equal(one, s) {
					t.Errorf("FindOne: %v, %v, want %v", one, err, s)
				}
			}
			checkErrors(t, root, errors.Join(strays...), tt.strays)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			checkErrors(t, root, err, tt.errs)
		})
	}
}

// checkErrors wants one *Error with a remedy for each of want.
func checkErrors(t *testing.T, root string, err error, want []string) {
	t.Helper()
	var errs []error
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		errs = joined.Unwrap()
	} else if err != nil {
		t.Fatalf("%v: not joined", err)
	}
	if len(errs) != len(want) {
		t.Fatalf("errors %v\nwant %q", err, want)
	}
	for i, err := range errs {
		var e *Error
		if !errors.As(err, &e) || remedy.Of(err) == "" {
			t.Errorf("%v: not an *Error with a remedy", err)
		}
		if got := strings.ReplaceAll(err.Error(), root+"/", ""); !strings.HasPrefix(got, want[i]) {
			t.Errorf("%s\nwant %s", got, want[i])
		}
	}
}

// A directory that others can write might mask a manifest or unmask one: then
// nothing is known.
func TestFindRefusesUnsafeDirectories(t *testing.T) {
	root := tree(t, "a/x.toml", "b/y.toml")
	must(t, os.Chmod(root+"/b", 0o777))
	sources, _, err := Find([]string{root + "/a", root + "/b"})
	if !errors.Is(err, safefile.ErrUnsafe) || sources != nil {
		t.Errorf("%v, %v", sources, err)
	}
}

func TestFindTakesAFileForNoDirectory(t *testing.T) {
	root := tree(t, "a")
	if sources, _, err := Find([]string{root + "/a"}); err == nil || sources != nil {
		t.Errorf("%v, %v", sources, err)
	}
}

// What cannot be read might forbid something: its manifest is not there either,
// and whoever asks for that one is told why.
func TestFindDoubtsUnsafeDropIns(t *testing.T) {
	tests := []struct {
		name, says string
		make       func(t *testing.T, root string)
	}{
		{"writable by others", "can be written by others", func(t *testing.T, root string) { must(t, os.Chmod(root+"/a/x.toml.d", 0o777)) }},
		{"of another user", "belongs to uid 1234", func(t *testing.T, root string) {
			testenv.RequireRoot(t)
			must(t, os.Chown(root+"/a/x.toml.d", 1234, 0))
		}},
		{"too many", "40 drop-ins, at most 16 apply to one manifest", func(t *testing.T, root string) { fill(t, root+"/a/x.toml.d/%d.toml", 40) }},
		{"much too many", "", func(t *testing.T, root string) { fill(t, root+"/a/x.toml.d/%d.txt", maxDropInEntries+1) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := tree(t, "a/x.toml.d/", "b/x.toml", "b/y.toml")
			tt.make(t, root)
			dirs := []string{root + "/a", root + "/b"}
			sources, _, err := Find(dirs)
			if len(sources) != 1 || sources[0].Name != "y" {
				t.Errorf("%v", sources)
			}
			checkErrors(t, root, err, []string{"a/x.toml.d: "})
			if _, one := FindOne(dirs, "x"); one == nil || !strings.Contains(err.Error(), tt.says) || one.Error() != err.Error() {
				t.Errorf("%v\n%v\nwant %q", one, err, tt.says)
			}
			if _, err := FindOne(dirs, "y"); err != nil {
				t.Error(err)
			}
			if _, err := FindOne(dirs, "z"); !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		})
	}
}

// fill makes n files.
func fill(t *testing.T, format string, n int) {
	t.Helper()
	for i := range n {
		must(t, os.WriteFile(fmt.Sprintf(format, i), nil, 0o644))
	}
}

// The object's file is looked for where the manifest lies, not where the
// process runs.
func TestParseOfARelativeFile(t *testing.T) {
	root := tree(t, "m/x.toml")
	t.Chdir(root)
	m, err := Parse("m/x.toml", []byte("object.path = 'x.o'"))
	must(t, err)
	if want := filepath.Join(root, "m", "x.o"); m.Object.Path != want {
		t.Errorf("object %s, want %s", m.Object.Path, want)
	}
}
