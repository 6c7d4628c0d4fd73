package main_test

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// variant returns the object with another constant and another verdict of its
// program: a map's contents and a program's tag tell the variants apart.
func variant(t testing.TB, object []byte, n byte) []byte {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(object))
	if err != nil {
		t.Fatal(err)
	}
	out := slices.Clone(object)
	rodata, text := f.Section(".rodata"), f.Section("xdp")
	if rodata == nil || text == nil {
		t.Fatal("the object has no .rodata or no xdp")
	}
	out[rodata.Offset] = n // a flag: any value but 0 is true
	for at := text.Offset; at < text.Offset+text.Size; at += 8 {
		if out[at] == 0xb4 && out[at+1] == 0 { // w0 = an immediate
			out[at+4] = n & 1
			out[at+5] = n // 256 times n: no verdict that the kernel knows
			return out
		}
	}
	t.Fatal("the program sets w0 nowhere")
	return nil
}

// inKernel is what the kernel has of a collection: tags, and the contents of
// its frozen maps.
func inKernel(t testing.TB, c api.Collection) string {
	t.Helper()
	var parts []string
	for _, info := range c.Programs {
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(info.ID))
		if err != nil {
			t.Fatal(err)
		}
		i, err := p.Info()
		p.Close()
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, "tag "+i.Tag)
	}
	for _, info := range c.Maps {
		if info.Name == "hits" {
			continue // counts
		}
		m, err := ebpf.NewMapFromID(ebpf.MapID(info.ID))
		if err != nil {
			t.Fatal(err)
		}
		var key, value []byte
		for it := m.Iterate(); it.Next(&key, &value); {
			parts = append(parts, fmt.Sprintf("%s %x=%x", info.Name, key, value))
		}
		m.Close()
	}
	slices.Sort(parts)
	return strings.Join(parts, "\n")
}

// racer is one file with what an attacker puts in its place.
type racer struct {
	path    string
	aside   []string // files to exchange it with
	goods   [][]byte // contents that are there before and may be there behind
	attacks [][]byte // contents to write over it
}

// exchange swaps the file with its asides.
func (r racer) exchange(i int) error {
	return unix.Renameat2(unix.AT_FDCWD, r.path, unix.AT_FDCWD, r.aside[i%len(r.aside)], unix.RENAME_EXCHANGE)
}

// rewrite cuts the file in the middle and writes another in place.
func (r racer) rewrite(i int) error {
	f, err := os.OpenFile(r.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := slices.Concat(r.goods, r.attacks)[i%(len(r.goods)+len(r.attacks))]
	if i%3 == 0 {
		if err := f.Truncate(int64(len(b) / 2)); err != nil {
			return err
		}
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(b)))
}

// mapped writes through a shared mapping, which changes neither size nor, for
// a while, any time stamp.
func (r racer) mapped(i int) error {
	f, err := os.OpenFile(r.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := slices.Concat(r.goods[:1], r.attacks)[i%(1+len(r.attacks))]
	mem, err := unix.Mmap(int(f.Fd()), 0, len(b), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(mem, b)
	return unix.Munmap(mem)
}

// TestRacingWriters changes manifest, object and signature as fast as it can
// while they are loaded. What loads must be, in the kernel, one of the pairs
// of manifest and signed object that were loaded in peace, and the one that the
// answer names.
func TestRacingWriters(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	original := example(t, "xdp-drop/xdp_drop.bpf.o")
	signed := [][]byte{original, variant(t, original, 3)}
	hostile := [][]byte{variant(t, original, 5), variant(t, original, 7)}
	manifest := func(network string) []byte {
		m := strings.Replace(xdpDrop(pair), "version = 1\n", "", 1)
		return []byte(strings.Replace(m, pair.A.Addr.String()+"/32", network, 1))
	}
	manifests := [][]byte{manifest("192.0.2.0/24"), manifest("192.0.3.0/24")}
	h.Start()

	// The twins, loaded in peace.
	twins := map[string]string{} // digests of manifest and object -> what the kernel has
	for _, m := range manifests {
		for _, o := range signed {
			h.Object("xdp_drop.bpf.o", o)
			h.Manifest("xdp-drop", string(m))
			c := load(t, h, "xdp-drop")
			twins[c.Manifest.SHA256+c.Object.SHA256] = inKernel(t, c)
			if c.Object.SHA256 != fmt.Sprintf("%x", sha256.Sum256(o)) {
				t.Fatalf("object %s", c.Object.SHA256)
			}
			unload(t, h, "xdp-drop")
		}
	}
	if len(distinct(twins)) != 4 {
		t.Fatalf("the twins do not differ: %v", twins)
	}

	if err := os.Mkdir(filepath.Join(h.Dir, "aside"), 0o755); err != nil {
		t.Fatal(err)
	}
	var racers []racer
	for name, contents := range map[string]struct{ goods, attacks [][]byte }{
		"xdp_drop.bpf.o":     {signed, hostile},
		"xdp_drop.bpf.o.p7s": {[][]byte{h.Sign(signed[0]), h.Sign(signed[1])}, nil},
		"xdp-drop.toml":      {manifests, nil},
	} {
		r := racer{path: filepath.Join(h.Manifests, name), goods: contents.goods, attacks: contents.attacks}
		for i, b := range slices.Concat(contents.goods[1:], contents.attacks) {
			r.aside = append(r.aside, h.Write(fmt.Sprintf("aside/%d-%s", i, name), b))
		}
		racers = append(racers, r)
	}

	for _, attack := range []struct {
		name string
		do   func(racer, int) error
	}{{"exchange", racer.exchange}, {"rewrite", racer.rewrite}, {"mmap", racer.mapped}} {
		t.Run(attack.name, func(t *testing.T) {
			for _, r := range racers { // each attack begins with what is good
				if err := os.WriteFile(r.path, r.goods[0], 0o644); err != nil {
					t.Fatal(err)
				}
			}
			var stop atomic.Bool
			var writes atomic.Int64
			var running sync.WaitGroup
			for _, r := range racers {
				running.Go(func() {
					for i := 0; !stop.Load(); i++ {
						if err := attack.do(r, i); err != nil {
							t.Errorf("%s: %v", r.path, err)
							return
						}
						writes.Add(1)
						if r.attacks == nil {
							time.Sleep(200 * time.Microsecond) // else nothing ever fits
						}
					}
				})
			}
			began, loaded, refused := time.Now(), 0, 0
			limit := 8 * time.Second
			if testing.Short() {
				limit = 3 * time.Second
			}
			few := func() bool { return loaded < 5 || refused < 5 || writes.Load() < 1000 }
			for ; time.Since(began) < limit || few() && time.Since(began) < time.Minute; refused++ {
				c, err := h.Client().Load(t.Context(), "xdp-drop")
				if err != nil {
					continue
				}
				refused--
				loaded++
				if want, ok := twins[c.Manifest.SHA256+c.Object.SHA256]; !ok || inKernel(t, c) != want {
					t.Errorf("manifest %s, object %s: the kernel has\n%s\nwant\n%s", c.Manifest.SHA256, c.Object.SHA256, inKernel(t, c), want)
				}
				unload(t, h, "xdp-drop")
			}
			stop.Store(true)
			running.Wait()
			t.Logf("%d loaded, %d refused, %d writes in %s", loaded, refused, writes.Load(), time.Since(began).Round(time.Millisecond))
			if few() {
				t.Errorf("%d loaded, %d refused, %d writes: nothing was shown", loaded, refused, writes.Load())
			}
		})
	}
}

func distinct(m map[string]string) map[string]bool {
	out := map[string]bool{}
	for _, v := range m {
		out[v] = true
	}
	return out
}

// TestEachFileIsOpenedOnce counts what strace sees of a load.
func TestEachFileIsOpenedOnce(t *testing.T) {
	testenv.NoLeaks(t)
	h, _ := ratcheted(t, "request", "")
	unload(t, h, "count")
	trace := filepath.Join(h.Dir, "trace")
	cmd := tracer(t, h.PID(), "-o", trace, "-e", "trace=open,openat,openat2,open_by_handle_at,name_to_handle_at")
	load(t, h, "count")
	h.Kill()
	cmd.Wait()
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"count.toml", "conn_count.bpf.o", "conn_count.bpf.o.p7s"} {
		opened := regexp.MustCompile(`open[a-z0-9_]*\(.*"([^"]*/)?`+regexp.QuoteMeta(name)+`"`).FindAllString(string(b), -1)
		if len(opened) != 1 {
			t.Errorf("%s: opened %d times: %q", name, len(opened), opened)
		}
	}
}
