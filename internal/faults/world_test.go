package faults

import (
	"bufio"
	"bytes"
	"context"
	crand "crypto/rand"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

//go:generate ../../scripts/bpf-compile testdata/faults.bpf.c

var (
	all   = flag.Bool("faults.all", false, "every point and 2,000 power cuts, not a sample")
	only  = flag.String("faults.only", "", "only these points: a verb, a fault and a system call, such as \"load KILL bpf\"")
	seed  = flag.Uint64("faults.seed", 1, "choose the sample by this `number`")
	proof = flag.Bool("faults.proof", false, "seed every bug, not one; with -faults.only those with that in their name")
	first = flag.Bool("faults.first", false, "end with the first violation")
)

// seeded returns a source of chance, and tells how to have the same again.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	n := *seed // the same points in every run, unless asked for others
	t.Logf("seed %d", n)
	return rand.New(rand.NewPCG(n, 0))
}

func TestMain(m *testing.M) {
	if os.Getenv(beating) != "" {
		beat(os.Stdin, os.Stdout)
		return
	}
	testdaemon.Main(m)
}

// The collections.
const (
	subject   = "subject"   // what the verbs are about: every kind of link
	bystander = "bystander" // runs on, and is never to notice
	comes     = "comes"     // loaded by a reload or a start
	goes      = "goes"      // unloaded by a reload
)

// world is a host, what runs on it, and the model of what should.
type world struct {
	*testdaemon.Host
	t      *testing.T
	token  string // in the names of all programs and maps of this test
	object []byte
	pair   testenv.Pair
	cgroup string
	beats  *beats
	kernel *kernel

	process int // of the hornetd that was started last

	serial int            // of the last manifest
	is     map[string]int // what runs: 1 or 2, which manifests set; 0 is nothing
	starts map[string]string
	failed map[string]bool // of the last reload
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testenv.RequireRoot(t)
	testenv.RequireEnum(t, "bpf_attach_type", "BPF_TCX_INGRESS")
	for _, tool := range []string{"strace"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(tool + " is not installed")
		}
	}
	w := &world{Host: testdaemon.New(t, ""), t: t, pair: testenv.Veth(t), cgroup: testenv.Cgroup(t), is: map[string]int{}, starts: map[string]string{}}
	w.token = "hf" + strings.ToLower(crand.Text()[:4])
	b, err := os.ReadFile("testdata/faults.bpf.o")
	if err != nil {
		t.Fatal(err)
	}
	w.object = bytes.ReplaceAll(b, []byte("hftokn"), []byte(w.token))
	w.Object("faults.bpf.o", w.object)
	w.kernel = newKernel(w)
	w.beats = startBeats(t, w.cgroup)
	w.declare(bystander, "boot", 1)
	w.Start()
	w.is[bystander] = 1
	return w
}

// TryStart notes which process it is.
func (w *world) TryStart(wrapper ...string) error {
	w.t.Helper()
	err := w.Host.TryStart(wrapper...)
	w.process = w.PID()
	return err
}

func (w *world) Start() {
	w.t.Helper()
	if err := w.TryStart(); err != nil {
		w.t.Fatalf("%v\n%s", err, w.Log())
	}
}

// places are the programs that a collection attaches. Only one xdp program fits
// an interface.
func places(name string) []string {
	if name == subject {
		return []string{"xdp", "tcx", "con", "raw"}
	}
	return []string{"tcx", "con"}
}

// declare writes a manifest with a version that is higher than every other.
func (w *world) declare(name, start string, is int) {
	w.t.Helper()
	w.serial++
	w.starts[name] = start
	w.declareAs(name, start, is, w.serial)
}

func (w *world) declareAs(name, start string, is, version int) {
	w.t.Helper()
	s := fmt.Sprintf("version = %d\nstart = %q\n[object]\npath = \"faults.bpf.o\"\n[variables]\n%s_is = %d\n", version, start, w.token, is)
	s += fmt.Sprintf("[maps.%s_calls]\nclass = \"mutable\"\nkeep = true\n", w.token)
	s += fmt.Sprintf("[maps.%s_list]\nclass = \"frozen\"\nentries = [ { key = %d, value = 7 } ]\n", w.token, 100+is)
	for _, p := range places(name) {
		s += fmt.Sprintf("[[attach]]\nprogram = \"%s_%s\"\n", w.token, p)
		switch p {
		case "xdp":
			s += fmt.Sprintf("interface = %q\nnetns = %q\nmode = \"generic\"\n", w.pair.B.Name, w.pair.B.Netns)
		case "tcx":
			s += fmt.Sprintf("interface = %q\nnetns = %q\n", w.pair.B.Name, w.pair.B.Netns)
		case "con":
			s += fmt.Sprintf("cgroup = %q\n", w.cgroup)
		}
	}
	w.Manifest(name, s+fmt.Sprintf("[[allow]]\nuser = \"%d\"\nmay = [\"load\"]\n", user))
}

// undeclare removes a manifest.
func (w *world) undeclare(name string) {
	w.t.Helper()
	if err := os.Remove(filepath.Join(w.Manifests, name+".toml")); err != nil {
		w.t.Fatal(err)
	}
}

// patient bounds how long a change may take: a daemon that does not answer is a
// finding, not a test that hangs. On a busy host an attachment alone may wait half
// a minute for the lock that all network namespaces share.
func patient() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 2*time.Minute)
}

// stacks ends a hornetd that does not answer, and returns what it was doing.
func (w *world) stacks() string {
	w.t.Helper()
	w.Signal(syscall.SIGQUIT)
	w.Wait()
	return w.Log()
}

// beating is set in the environment of the process that makes the traffic.
const beating = "HORNET_TEST_BEATS"

// beat connects a socket, which is what the programs on the cgroup count, about
// a thousand times a second. For each line it reads it pauses and says how often
// it did; the next line lets it go on.
func beat(in io.Reader, out io.Writer) {
	var mu sync.Mutex
	count := 0
	to := &unix.SockaddrInet4{Port: 9, Addr: netip.MustParseAddr("127.0.0.1").As4()}
	go func() {
		for {
			mu.Lock()
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if err == nil {
				err = unix.Connect(fd, to)
				unix.Close(fd)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "beat:", err)
				os.Exit(1)
			}
			count++
			mu.Unlock()
			time.Sleep(time.Millisecond)
		}
	}()
	for lines := bufio.NewScanner(in); lines.Scan(); {
		mu.Lock()
		fmt.Fprintln(out, count)
		if !lines.Scan() {
			return
		}
		mu.Unlock()
	}
}

// beats is the process that makes the traffic.
type beats struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Scanner
}

func startBeats(t *testing.T, cgroup string) *beats {
	t.Helper()
	cmd := testenv.CgroupCommand(t, cgroup, os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), beating+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	return &beats{t, in, bufio.NewScanner(out)}
}

// pause calls f between two beats, with how many there were.
func (b *beats) pause(f func(n uint64)) {
	b.t.Helper()
	fmt.Fprintln(b.in, "pause")
	if !b.out.Scan() {
		b.t.Fatal("beats: the process ended")
	}
	n, err := strconv.ParseUint(b.out.Text(), 10, 64)
	if err != nil {
		b.t.Fatal(err)
	}
	f(n)
	fmt.Fprintln(b.in, "go")
}
