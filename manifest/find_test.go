package manifest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/safefile"
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
		name  string
		files []string
		want  []string // NAME FILE
		errs  []string
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
			name:  "drop-ins",
			files: []string{"a/x.toml.d/10.toml", "b/x.toml", "b/y.toml"},
			want:  []string{"y b/y.toml"},
			errs:  []string{"a/x.toml.d: is a directory of drop-ins"},
		},
		{
			name:  "drop-ins beside a file",
			files: []string{"a/x.toml", "a/x.toml.d/"},
			errs:  []string{"a/x.toml.d: is a directory of drop-ins"},
		},
		{
			name:  "templates and bad names",
			files: []string{"a/t@.toml", "a/t@eth0.toml", "a/Bad.toml", "a/100-x.toml", "a/stage-1.toml", "b/good.toml"},
			want:  []string{"good b/good.toml"},
			errs: []string{
				`a/100-x.toml: "100-x" is not a name`, `a/Bad.toml: "Bad" is not a name`,
				"a/stage-1.toml: ", "a/t@.toml: is a template", "a/t@eth0.toml: is a template",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := tree(t, tt.files...)
			sources, err := Find([]string{root + "/a", root + "/b", root + "/c"})
			var got []string
			for _, s := range sources {
				got = append(got, s.Name+" "+strings.TrimPrefix(s.File, root+"/"))
			}
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
	sources, err := Find([]string{root + "/a", root + "/b"})
	if !errors.Is(err, safefile.ErrUnsafe) || sources != nil {
		t.Errorf("%v, %v", sources, err)
	}
}

func TestFindTakesAFileForNoDirectory(t *testing.T) {
	root := tree(t, "a")
	if sources, err := Find([]string{root + "/a"}); err == nil || sources != nil {
		t.Errorf("%v, %v", sources, err)
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
