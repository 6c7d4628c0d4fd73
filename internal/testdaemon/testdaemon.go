// Package testdaemon runs the real hornetd and hornetctl binaries for tests, each
// host of its own: bpffs root, socket, manifests, trust store and state
// directory, all gone when the test ends.
package testdaemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/signing"
)

// Host is one place where a hornetd can run.
type Host struct {
	Dir       string // everything below, root-owned
	Manifests string
	Trust     string
	State     string
	BPFFS     string // the bpffs root, a mount of its own
	Socket    string
	Config    string

	tb   testing.TB
	key  []byte // PEM, of the trust store's "dev"
	cert []byte
	cmd  *exec.Cmd
	log  *logBuffer
	wait func() error // of cmd, once
}

// New lays out a host with a trust store that holds the signer "dev" and a
// hornetd.toml. extra is appended to that file.
func New(tb testing.TB, extra string) *Host {
	tb.Helper()
	testenv.RequireRoot(tb)
	dir := tb.TempDir()
	h := &Host{
		tb: tb, Dir: dir,
		Manifests: filepath.Join(dir, "hornet.d"), Trust: filepath.Join(dir, "trust.d"),
		State: filepath.Join(dir, "state"), BPFFS: testenv.BPFFS(tb),
		Socket: filepath.Join(dir, "hornetd.sock"), Config: filepath.Join(dir, "hornetd.toml"),
	}
	// Unprivileged clients must reach the socket, and nothing else.
	h.must(os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755))
	h.must(os.Mkdir(h.Manifests, 0o755), os.Mkdir(h.Trust, 0o755))
	var err error
	h.key, h.cert, err = signing.Keygen("dev", "ecdsa")
	h.must(err)
	h.Write("trust.d/dev.pem", h.cert)
	h.Write("hornetd.toml", fmt.Appendf(nil, "[paths]\nmanifests = [%q]\ntrust = %q\nrevoked = %q\nbpffs = %q\nstate = %q\nbundles = %q\n\n[api]\nsocket = %q\nmode = \"0666\"\ngroup = \"0\"\n%s",
		h.Manifests, h.Trust, filepath.Join(dir, "revoked"), h.BPFFS, h.State, h.Bundles(), h.Socket, extra))
	if !strings.Contains(extra, "[guard]") { // it is about the whole host
		f, err := os.OpenFile(h.Config, os.O_APPEND|os.O_WRONLY, 0)
		h.must(err)
		_, err = f.WriteString("\n[guard]\nmode = \"off\"\n")
		h.must(err, f.Close())
	}
	tb.Cleanup(h.end)
	return h
}

func (h *Host) must(errs ...error) {
	h.tb.Helper()
	if err := errors.Join(errs...); err != nil {
		h.tb.Fatal(err)
	}
}

// Bundles is the directory of what callers brought.
func (h *Host) Bundles() string { return filepath.Join(h.Dir, "bundles") }

// Write puts a file below Dir and returns its path.
func (h *Host) Write(name string, b []byte) string {
	h.tb.Helper()
	path := filepath.Join(h.Dir, name)
	h.must(os.WriteFile(path, b, 0o644))
	return path
}

// Object puts an object and its signature by "dev" beside the manifests.
func (h *Host) Object(name string, object []byte) string {
	h.tb.Helper()
	path := h.Write("hornet.d/"+name, object)
	h.Write("hornet.d/"+name+".p7s", h.Sign(object))
	return path
}

// Sign returns a signature by "dev".
func (h *Host) Sign(object []byte) []byte {
	h.tb.Helper()
	key, err := signing.ParseKey(h.key)
	h.must(err)
	cert, err := signing.ParseCertificate(h.cert)
	h.must(err)
	sig, err := signing.Sign(object, key, cert)
	h.must(err)
	return sig
}

// Key writes the private key and the certificate of "dev" below Dir and
// returns their paths.
func (h *Host) Key() (key, cert string) {
	h.tb.Helper()
	key = h.Write("dev.key", h.key)
	h.must(os.Chmod(key, 0o600)) // or hornetctl does not read it
	return key, h.Write("dev.pem", h.cert)
}

// Revoke puts a revocation list by "dev" in place and returns its path.
func (h *Host) Revoke(list string) string {
	h.tb.Helper()
	key, err := signing.ParseKey(h.key)
	h.must(err)
	cert, err := signing.ParseCertificate(h.cert)
	h.must(err)
	b, err := signing.SignRevocations([]byte(list), key, cert)
	h.must(err)
	return h.Write("revoked", b)
}

// Manifest puts NAME.toml into the manifest directory.
func (h *Host) Manifest(name, text string) string {
	h.tb.Helper()
	return h.Write("hornet.d/"+name+".toml", []byte(text))
}

// Start runs hornetd and waits until it answers.
func (h *Host) Start() {
	h.tb.Helper()
	if err := h.TryStart(); err != nil {
		h.tb.Fatalf("%v\n%s", err, h.Log())
	}
}

// TryStart is Start for a daemon that may refuse. The error is how it ended.
func (h *Host) TryStart(wrapper ...string) error {
	h.tb.Helper()
	args := append(append([]string(nil), wrapper...), Binary(h.tb, "hornetd"), "--config", h.Config)
	h.cmd = exec.Command(args[0], args[1:]...)
	h.log = &logBuffer{}
	h.cmd.Stdout, h.cmd.Stderr = h.log, h.log
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error, 1), make(chan error, 1)
	cmd := h.cmd
	h.wait = sync.OnceValue(func() error { return <-ended })
	go func() {
		// Pdeathsig looks at the thread that started the process. This one
		// stays until the process ends; another could end with a test's
		// network namespace.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	// Asking takes time from the daemon where there is one processor.
	for began := time.Now(); time.Since(began) < 2*time.Minute; time.Sleep(max(time.Millisecond, time.Since(began)/20)) {
		select {
		case err := <-ended:
			ended <- err
			if err == nil {
				err = errors.New("exit status 0")
			}
			return fmt.Errorf("hornetd ended: %w", err)
		default:
		}
		if _, err := h.Client().Status(context.Background()); err == nil {
			return nil
		}
	}
	return errors.New("hornetd does not answer")
}

// PID is the process started last.
func (h *Host) PID() int { return h.cmd.Process.Pid }

// Kill ends hornetd with SIGKILL and waits for it.
func (h *Host) Kill() { h.signal(syscall.SIGKILL) }

// Stop ends hornetd with SIGTERM and waits for it.
func (h *Host) Stop() { h.signal(syscall.SIGTERM) }

// Signal sends sig. It waits for SIGSTOP alone, which a thread may hear of after what it is doing.
func (h *Host) Signal(sig syscall.Signal) {
	h.must(h.cmd.Process.Signal(sig))
	for deadline := time.Now().Add(time.Minute); sig == syscall.SIGSTOP && !h.stopped(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			h.must(errors.New("hornetd does not stop"))
		}
	}
}

// stopped reports whether no thread of hornetd runs.
func (h *Host) stopped() bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", h.cmd.Process.Pid))
	h.must(err)
	for _, name := range threads {
		b, _ := os.ReadFile(name)
		if _, rest, _ := strings.Cut(string(b), ") "); rest != "" && !strings.ContainsAny(rest[:1], "TtZX") {
			return false
		}
	}
	return len(threads) > 0
}

// Stopped has do done while hornetd sees nothing of it.
func (h *Host) Stopped(do func()) {
	h.Signal(syscall.SIGSTOP)
	defer h.Signal(syscall.SIGCONT)
	do()
}

func (h *Host) signal(sig syscall.Signal) {
	if h.cmd == nil {
		return
	}
	h.cmd.Process.Signal(sig)
	h.wait()
	h.cmd = nil
}

// Wait waits until hornetd has ended and returns how.
func (h *Host) Wait() error {
	err := h.wait()
	h.cmd = nil
	return err
}

// end stops the daemon and takes out of the kernel what it left pinned there.
func (h *Host) end() {
	if h.tb.Failed() && h.log != nil {
		h.tb.Logf("hornetd said:\n%s", h.Log())
	}
	h.signal(syscall.SIGKILL)
}

// Log is what hornetd wrote since the last start.
func (h *Host) Log() string { return h.log.String() }

// Client returns a client of the daemon, as root.
func (h *Host) Client() *api.Client { return api.New(h.Socket) }

// Ctl runs hornetctl as root and returns what it printed and its exit status.
func (h *Host) Ctl(args ...string) (stdout, stderr string, exit int) {
	h.tb.Helper()
	return h.CtlAs(0, args...)
}

// CtlAs runs hornetctl as a user, with no groups but one of the same number.
func (h *Host) CtlAs(uid uint32, args ...string) (stdout, stderr string, exit int) {
	h.tb.Helper()
	return h.RunAs(uid, append([]string{Binary(h.tb, "hornetctl")}, args...)...)
}

// RunAs runs any command as a user, with HORNET_SOCKET set.
func (h *Host) RunAs(uid uint32, argv ...string) (stdout, stderr string, exit int) {
	h.tb.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "HORNET_SOCKET="+h.Socket, "NO_COLOR=1")
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exited *exec.ExitError
	if err != nil && !errors.As(err, &exited) {
		h.tb.Fatalf("%s: %v", strings.Join(argv, " "), err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// Binary builds a command of this module, once per test process, and returns
// its path, which every user may execute.
func Binary(tb testing.TB, name string) string {
	tb.Helper()
	if dir := os.Getenv("HORNET_BIN"); dir != "" {
		return filepath.Join(dir, name) // a guest of internal/vmtest has no compiler
	}
	built.Lock()
	defer built.Unlock()
	if built.dir == "" {
		dir, err := os.MkdirTemp("", "hornet-bin-")
		if err != nil {
			tb.Fatal(err)
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			tb.Fatal(err)
		}
		built.dir = dir
	}
	path := filepath.Join(built.dir, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", path, "github.com/hornetd/hornetd/cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return path
}

// Main is a TestMain that removes the binaries.
func Main(m *testing.M) {
	code := m.Run()
	Clean()
	os.Exit(code)
}

// Clean removes the binaries that Binary has built, for a TestMain of another kind.
func Clean() { os.RemoveAll(built.dir) }

var built struct {
	sync.Mutex
	dir string
}

// logBuffer takes the output of a process while others read it.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
