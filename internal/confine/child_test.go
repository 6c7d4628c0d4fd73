package confine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// TestMain is what the command's main is: it looks at its name first.
func TestMain(m *testing.M) {
	if child, ok := children[os.Args[0]]; ok {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

// children are what this program is under other names: Serve with parsers that do
// what no parser should, and parts of it, to see each layer without the others.
var children = map[string]func() int{
	"test-plain": func() int {
		return Serve(func(object []byte) error {
			if strings.HasPrefix(string(object), "good") {
				return nil
			}
			return remedy.With(fmt.Errorf("%d bytes are bad", len(object)), "write good")
		})
	},

	// The first that a process starts is killed.
	"test-killed": func() int {
		if os.Mkdir(killedOnce(os.Getppid()), 0o700) == nil {
			unix.Kill(unix.Getpid(), unix.SIGKILL)
		}
		return Serve(func([]byte) error { return nil })
	},

	"test-open":   serve(func() { os.Open(os.DevNull) }),
	"test-stat":   serve(func() { os.Stat("/") }),
	"test-chmod":  serve(func() { unix.Chmod("/proc/self", 0o755) }),
	"test-socket": serve(func() { unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0) }),
	"test-exec":   serve(func() { unix.Exec("/proc/self/exe", []string{"test-plain"}, nil) }),
	"test-fork":   serve(func() { unix.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0) }),
	"test-kill":   serve(func() { unix.Kill(unix.Getppid(), 0) }),
	"test-signal": serve(func() { unix.Tgkill(1, 1, 0) }),
	"test-bpf":    serve(func() { unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_GET_NEXT_ID, 0, 0) }),
	"test-code":   serve(func() { unix.Mmap(-1, 0, 4096, unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE) }),
	"test-prctl":  serve(func() { unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) }),

	"test-memory": serve(func() { hoard = append(hoard, make([]byte, 2<<30)) }),
	"test-hoard": serve(func() {
		for range 2 << 10 {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			hoard = append(hoard, b)
		}
	}),
	"test-spin":   serve(spin),
	"test-sleep":  serve(func() { time.Sleep(time.Hour) }),
	"test-panic":  serve(func() { panic("the parser's \x1b[31mown\nready") }),
	"test-die":    serve(func() { unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGKILL) }),
	"test-forge":  serve(func() { write([]byte(taken)) }),
	"test-blank":  serve(func() { write([]byte("\n")) }),
	"test-silent": serve(func() { os.Exit(0) }),
	"test-liar":   serve(func() { write([]byte(taken)); os.Exit(3) }),
	"test-endless": serve(func() {
		for {
			write(make([]byte, 4096))
		}
	}),
	"test-work": serve(work),

	"test-loose": func() int { write([]byte("no such \x1b thing")); return 1 },
	"test-other": func() int { write([]byte(fmt.Sprint("reason ", os.Getpid()))); return 1 },
	"test-mute":  func() int { time.Sleep(time.Hour); return 1 },

	"test-limits": part(limitResources, func() error {
		for {
			if _, err := os.Open(os.DevNull); err != nil {
				return err
			}
		}
	}),
	"test-capabilities": part(func() error { return keepCapabilities(0) }, func() error {
		_, err := os.ReadFile("/proc/1/environ") // of root's, with capabilities that this has not
		return err
	}),
	"test-files": part(denyFiles, func() error {
		_, openErr := os.Open("/")
		return errors.Join(openErr, os.Mkdir("/tmp/confine-test", 0o700))
	}),
	"test-all-but-calls": part(func() error {
		for _, layer := range layers[:len(layers)-1] {
			if err := layer.take(); err != nil {
				return err
			}
		}
		return nil
	}, func() error { return os.Mkdir("/tmp/confine-test", 0o700) }),
	"test-files-everywhere": part(denyFiles, func() error {
		failed := make(chan error)
		for range 20 { // more threads than there were
			go func() {
				time.Sleep(10 * time.Millisecond)
				_, err := os.Open("/")
				failed <- err
			}()
		}
		var errs []error
		for range 20 {
			errs = append(errs, <-failed)
		}
		for _, err := range errs {
			if err == nil {
				return nil
			}
		}
		return errs[0]
	}),

	"test-parent": parent,
}

var hoard [][]byte

func serve(do func()) func() int {
	return func() int { return Serve(func([]byte) error { do(); return nil }) }
}

// part confines with one layer only, and answers what do says then.
func part(layer, do func() error) func() int {
	return func() int {
		if err := layer(); err != nil {
			write([]byte(err.Error()))
			return 1
		}
		write([]byte(greeting))
		read()
		write(encode(do()))
		return 0
	}
}

func spin() {
	for range 2 {
		go func() {
			for n := 0; n >= 0; n ^= 1 { // for ever
			}
		}()
	}
	select {}
}

// work is what a runtime may need in a long life: threads, timers, collections.
func work() {
	done := make(chan bool)
	for range 50 {
		go func() {
			for range 20 {
				_ = make([]byte, 1<<20)
				time.Sleep(time.Millisecond)
			}
			done <- true
		}()
	}
	for range 50 {
		<-done
	}
}

// parent is a daemon that dies while one process parses and another waits.
func parent() int {
	p := Start("test-spin", func(error) {})
	go p.Parse(bytes.NewReader(nil))
	time.Sleep(time.Hour)
	return 0
}

// killedOnce is a directory that is there once a process's first child was killed.
func killedOnce(pid int) string { return fmt.Sprintf("/tmp/hornet-test-killed-%d", pid) }
