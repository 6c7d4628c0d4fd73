package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// logDir returns a directory for a log that is not there yet.
func logDir(t testing.TB) string { return filepath.Join(t.TempDir(), "audit") }

func openLog(t testing.TB, dir string) *Log {
	t.Helper()
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func appendN(t testing.TB, l *Log, n int) {
	t.Helper()
	for range n {
		if _, err := l.Append(Record{Phase: Intent, Verb: "load", Collection: "a"}); err != nil {
			t.Fatal(err)
		}
	}
}

// seqs reads the log and returns the sequence numbers from on.
func seqs(t testing.TB, l *Log, from uint64) (out []uint64) {
	t.Helper()
	must(t, l.Read(from, func(r Record, leaf []byte) error {
		out = append(out, r.Seq)
		return nil
	}))
	return out
}

// upTo is 1, 2, …, n.
func upTo(n uint64) (out []uint64) {
	for i := uint64(1); i <= n; i++ {
		out = append(out, i)
	}
	return out
}

func TestAppendAndReadBack(t *testing.T) {
	dir := logDir(t)
	l := openLog(t, dir)
	began := time.Now()
	first, err := l.Append(Record{Phase: Intent, Verb: "load", Collection: "a\nb"})
	must(t, err)
	second, err := l.Append(Record{Phase: Outcome, Verb: "load", Intent: first.Seq, Time: time.Unix(5, 0)})
	must(t, err)
	if first.Seq != 1 || second.Seq != 2 || first.Collection != `a\nb` || first.Synced <= 0 {
		t.Errorf("wrote %+v and %+v", first, second)
	}
	if first.Time.Before(began.Add(-time.Second)) || first.Time.After(time.Now()) || !second.Time.Equal(time.Unix(5, 0)) {
		t.Errorf("times %v and %v", first.Time, second.Time)
	}
	var got []Record
	var leaves [][]byte
	must(t, l.Read(0, func(r Record, leaf []byte) error {
		got = append(got, r)
		leaves = append(leaves, bytes.Clone(leaf))
		return nil
	}))
	if diff := cmp.Diff([]Record{first, second}, got, ignoreSynced); diff != "" {
		t.Error(diff)
	}
	file, err := os.ReadFile(dir + "/" + fileName)
	must(t, err)
	if want := append(bytes.Join(leaves, []byte("\n")), '\n'); !bytes.Equal(file, want) {
		t.Errorf("file %q, leaves %q", file, want)
	}
}

func TestLogGoesOnWhereItEnded(t *testing.T) {
	dir := logDir(t)
	for i := range 3 {
		l := openLog(t, dir)
		if (l.Recovered() != Recovery{}) {
			t.Errorf("recovered %+v from a clean end", l.Recovered())
		}
		appendN(t, l, 2)
		must(t, l.Close())
		if fi, err := os.Stat(dir + "/" + fileName); err != nil || fi.Mode() != 0o600 {
			t.Errorf("round %d: %v, %v", i, fi.Mode(), err)
		}
	}
	if diff := cmp.Diff(upTo(6), seqs(t, openLog(t, dir), 1)); diff != "" {
		t.Error(diff)
	}
	fi, err := os.Stat(dir)
	must(t, err)
	if fi.Mode() != os.ModeDir|0o700 {
		t.Errorf("directory has mode %v", fi.Mode())
	}
}

func TestOneWriter(t *testing.T) {
	dir := logDir(t)
	l := openLog(t, dir)
	appendN(t, l, 1)
	if _, err := Open(dir); !errors.Is(err, ErrLocked) || remedy.Of(err) == "" || !strings.Contains(err.Error(), dir) {
		t.Errorf("second Open = %v, want ErrLocked", err)
	}
	if out, err := child(nil, dir, "1").CombinedOutput(); err == nil || !strings.Contains(string(out), ErrLocked.Error()) {
		t.Errorf("another process: %v, %s", err, out)
	}
	must(t, l.Close())
	openLog(t, dir)
}

func TestOpenRefuses(t *testing.T) {
	for what, tc := range map[string]struct {
		prepare func(dir string) error
		want    error
	}{
		"parent missing":         {func(dir string) error { return os.Remove(filepath.Dir(dir)) }, os.ErrNotExist},
		"directory is a file":    {func(dir string) error { return os.WriteFile(dir, nil, 0o600) }, unix.ENOTDIR},
		"directory is a link":    {func(dir string) error { return os.Symlink(".", dir) }, unix.ENOTDIR},
		"directory for everyone": {func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o755)) }, ErrUnsafe},
		"file for everyone": {func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(dir+"/"+fileName, nil, 0o600), os.Chmod(dir+"/"+fileName, 0o640))
		}, ErrUnsafe},
		"file has two names": {func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(dir+"/other", nil, 0o600), os.Link(dir+"/other", dir+"/"+fileName))
		}, ErrUnsafe},
		"file is a link": {func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Symlink("/dev/null", dir+"/"+fileName))
		}, unix.ELOOP},
		"file is a pipe": {func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), unix.Mkfifo(dir+"/"+fileName, 0o600))
		}, ErrUnsafe},
		"file is a directory": {func(dir string) error { return os.MkdirAll(dir+"/"+fileName, 0o700) }, unix.EISDIR},
	} {
		t.Run(what, func(t *testing.T) {
			dir := logDir(t)
			must(t, tc.prepare(dir))
			l, err := Open(dir)
			if err == nil {
				l.Close()
			}
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), filepath.Dir(dir)) {
				t.Errorf("Open = %v, want %v and the path", err, tc.want)
			}
		})
	}
}

func TestOpenRefusesAStrangersFile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: chown")
	}
	for _, name := range []string{"", "/" + fileName} {
		dir := logDir(t)
		openLog(t, dir).Close()
		must(t, os.Chown(dir+name, 4242, 4242))
		if _, err := Open(dir); !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), "owner 4242") {
			t.Errorf("%q: Open = %v, want ErrUnsafe", name, err)
		}
	}
}

// What a crash, a file system or a stranger may leave behind the last record.
func TestRecovery(t *testing.T) {
	const n = 3
	next := `{"seq":4,"time":"2026-01-01T00:00:00Z","phase":"note","verb":"x","caller":{"uid":0,"gid":0}}`
	for what, tc := range map[string]struct {
		tail  string
		saved bool
	}{
		"nothing":                  {"", false},
		"half a line":              {next[:30], false},
		"a line but its newline":   {next, false},
		"zeros":                    {strings.Repeat("\x00", 4096), false},
		"one byte":                 {"{", false},
		"a line that is no record": {"hello\n", true},
		"lines and half a line":    {"hello\n\n{}\n{\"seq\":", true},
		"empty lines":              {"\n\n\n", true},
		"zeros and newlines":       {strings.Repeat("\x00\n", 2048), true},
		"more than a line":         {strings.Repeat("\x00", maxLine+1), true},
		"nearly all that is read":  {strings.Repeat("x", 4<<20-1000), true},
	} {
		t.Run(what, func(t *testing.T) {
			dir := logDir(t)
			l := openLog(t, dir)
			appendN(t, l, n)
			must(t, l.Close())
			path := dir + "/" + fileName
			good, err := os.ReadFile(path)
			must(t, err)
			must(t, os.WriteFile(path, append(good, tc.tail...), 0o600))

			l = openLog(t, dir)
			rec := l.Recovered()
			if rec.Bytes != int64(len(tc.tail)) || (rec.Saved != "") != tc.saved {
				t.Errorf("recovered %+v, want %d bytes, saved %v", rec, len(tc.tail), tc.saved)
			}
			if tc.saved {
				if b, err := os.ReadFile(rec.Saved); string(b) != tc.tail || err != nil {
					t.Errorf("saved %q, %v", b, err)
				}
				if fi, err := os.Stat(rec.Saved); err != nil || fi.Mode() != 0o600 {
					t.Errorf("saved with mode %v, %v", fi.Mode(), err)
				}
			}
			if b, _ := os.ReadFile(path); !bytes.Equal(b, good) {
				t.Errorf("%d bytes are left, want %d", len(b), len(good))
			}
			appendN(t, l, 1)
			if diff := cmp.Diff(upTo(n+1), seqs(t, l, 1)); diff != "" {
				t.Error(diff)
			}
			must(t, l.Close())
			if again := openLog(t, dir).Recovered(); (again != Recovery{}) {
				t.Errorf("second Open recovered %+v", again)
			}
		})
	}
}

func TestRecoveryOfNothingButGarbage(t *testing.T) {
	dir := logDir(t)
	must(t, os.Mkdir(dir, 0o700))
	must(t, os.WriteFile(dir+"/"+fileName, []byte("hello\nworld"), 0o600))
	l := openLog(t, dir)
	if rec := l.Recovered(); rec.Bytes != 11 || rec.Saved == "" {
		t.Errorf("recovered %+v", rec)
	}
	appendN(t, l, 1)
	if diff := cmp.Diff(upTo(1), seqs(t, l, 1)); diff != "" {
		t.Error(diff)
	}
}

// Too much garbage is not ours to decide about.
func TestOpenRefusesACorruptLog(t *testing.T) {
	dir := logDir(t)
	l := openLog(t, dir)
	appendN(t, l, 1)
	must(t, l.Close())
	f, err := os.OpenFile(dir+"/"+fileName, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.Write(bytes.Repeat([]byte("garbage\n"), 1<<19+1))
	must(t, errors.Join(err, f.Close()))
	before, _ := os.Stat(dir + "/" + fileName)
	if _, err := Open(dir); !errors.Is(err, ErrCorrupt) || remedy.Of(err) == "" {
		t.Errorf("Open = %v, want ErrCorrupt with a remedy", err)
	}
	if after, _ := os.Stat(dir + "/" + fileName); after.Size() != before.Size() {
		t.Errorf("%d bytes became %d", before.Size(), after.Size())
	}
}

// Any bytes behind any records: the records are found.
func FuzzLastLine(f *testing.F) {
	_, one, err := Record{Seq: 1, Time: time.Unix(1, 0), Phase: Note, Verb: "x"}.encode()
	must(f, err)
	_, two, err := Record{Seq: 2, Time: time.Unix(1, 0), Phase: Note, Verb: "x"}.encode()
	must(f, err)
	f.Add([]byte("{\"seq\":3,"))
	f.Add([]byte("\n\n\x00"))
	f.Add(bytes.Clone(two[:len(two)-1]))
	f.Add([]byte(`{"seq":9,"phase":"note"}` + "\n"))
	f.Fuzz(func(t *testing.T, tail []byte) {
		b := append(append(bytes.Clone(one), two...), tail...)
		end, last := lastLine(b)
		seq := last.Seq
		if end < len(one)+len(two) || b[end-1] != '\n' {
			t.Fatalf("end %d of %d", end, len(b))
		}
		if end == len(one)+len(two) && seq != 2 {
			t.Fatalf("sequence number %d", seq)
		}
		// Nothing behind is a record.
		for _, line := range bytes.SplitAfter(b[end:], []byte("\n")) {
			if line, ok := bytes.CutSuffix(line, []byte("\n")); ok {
				if r, err := parse(line); err == nil {
					t.Fatalf("record %d behind the last one", r.Seq)
				}
			}
		}
	})
}

func TestReadFrom(t *testing.T) {
	dir := logDir(t)
	const n = 3000
	writeLines(t, dir, n, 200)
	l := openLog(t, dir)
	for _, from := range []uint64{0, 1, 2, 1499, 1500, n - 1, n, n + 1, 1 << 63} {
		var want []uint64
		for i := max(from, 1); i <= n; i++ {
			want = append(want, i)
		}
		if diff := cmp.Diff(want, seqs(t, l, from)); diff != "" {
			t.Errorf("from %d: %s", from, diff)
		}
	}
	stop := errors.New("enough")
	for from := uint64(1); from <= n; from += 7 {
		var first uint64
		err := l.Read(from, func(r Record, leaf []byte) error { first = r.Seq; return stop })
		if err != stop || first != from {
			t.Fatalf("from %d the first is %d, %v", from, first, err)
		}
	}
	calls := 0
	err := l.Read(1, func(Record, []byte) error { calls++; return stop })
	if err != stop || calls != 1 {
		t.Errorf("Read = %v after %d calls", err, calls)
	}
}

// writeLines makes a log of n records with about size bytes of text each.
func writeLines(t testing.TB, dir string, n, size int) {
	t.Helper()
	must(t, os.Mkdir(dir, 0o700))
	f, err := os.OpenFile(dir+"/"+fileName, os.O_CREATE|os.O_WRONLY, 0o600)
	must(t, err)
	defer f.Close()
	var buf bytes.Buffer
	for i := range n {
		_, line, err := Record{Seq: uint64(i + 1), Time: time.Unix(int64(i), 0), Phase: Note, Verb: "x", Error: strings.Repeat("e", size)}.encode()
		must(t, err)
		buf.Write(line)
	}
	_, err = f.Write(buf.Bytes())
	must(t, err)
}

func TestReadFindsWhatWasChanged(t *testing.T) {
	for what, change := range map[string]func(file string) string{
		"a record is missing": func(s string) string { return strings.Replace(s, "{\"seq\":2,", "{\"seq\":5,", 1) },
		"a line is missing": func(s string) string {
			lines := strings.SplitAfter(s, "\n")
			return lines[0] + strings.Join(lines[2:], "")
		},
		"the first is missing": func(s string) string { return strings.Join(strings.SplitAfter(s, "\n")[1:], "") },
		"a line is no record":  func(s string) string { return strings.Replace(s, `"seq":2`, `"sEx":2`, 1) },
		"a line is too long": func(s string) string {
			return strings.Replace(s, `{"seq":2`, strings.Repeat(" ", maxLine)+`{"seq":2`, 1)
		},
		"an empty line": func(s string) string { return strings.Replace(s, "\n", "\n\n", 1) },
	} {
		t.Run(what, func(t *testing.T) {
			dir := logDir(t)
			l := openLog(t, dir)
			appendN(t, l, 4)
			must(t, l.Close())
			b, err := os.ReadFile(dir + "/" + fileName)
			must(t, err)
			must(t, os.WriteFile(dir+"/"+fileName, []byte(change(string(b))), 0o600))
			l = openLog(t, dir)
			if err := l.Read(1, func(Record, []byte) error { return nil }); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "byte ") {
				t.Errorf("Read = %v, want ErrCorrupt and where", err)
			}
		})
	}
}

// A log of 64 MiB is opened, and read from near its end, without reading it.
func TestOpenAndReadOfALargeLogAreCheap(t *testing.T) {
	dir := logDir(t)
	const n = 16 << 10
	writeLines(t, dir, n, 4000)
	before := bytesRead(t)
	l := openLog(t, dir)
	if got := bytesRead(t) - before; got > 128<<10 {
		t.Errorf("Open read %d bytes", got)
	}
	if r, err := l.Append(Record{Phase: Note, Verb: "x"}); err != nil || r.Seq != n+1 {
		t.Errorf("appended %d, %v", r.Seq, err)
	}
	before = bytesRead(t)
	if got := seqs(t, l, n); len(got) != 2 {
		t.Errorf("read %d", got)
	}
	if got := bytesRead(t) - before; got > 1<<20 {
		t.Errorf("Read read %d bytes", got)
	}
}

// bytesRead is how much this process has read by system calls, in bytes.
func bytesRead(t testing.TB) (n int64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/io")
	must(t, err)
	if _, err := fmt.Sscanf(string(b), "rchar: %d", &n); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return n
}

func TestManyGoroutines(t *testing.T) {
	dir := logDir(t)
	l := openLog(t, dir)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				if _, err := l.Append(Record{Phase: Note, Verb: "x"}); err != nil {
					t.Error(err)
				}
				if err := l.Read(1, func(Record, []byte) error { return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff(upTo(40), seqs(t, l, 1)); diff != "" {
		t.Error(diff)
	}
}

func TestAppendAfterClose(t *testing.T) {
	l := openLog(t, logDir(t))
	must(t, l.Close())
	if _, err := l.Append(Record{Phase: Note, Verb: "x"}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Append = %v, want ErrClosed", err)
	}
}
