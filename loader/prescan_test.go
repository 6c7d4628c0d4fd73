package loader

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// image is an object that a test changes.
type image struct {
	t testing.TB
	b []byte
}

func imageOf(t testing.TB, name string) image { return image{t, bytes.Clone(fixture(t, name))} }

func (i image) header() (h elf.Header64) {
	i.decode(0, &h)
	return h
}

func (i image) setHeader(change func(*elf.Header64)) image {
	h := i.header()
	change(&h)
	i.encode(0, h)
	return i
}

// setSection changes a section header, found by its name.
func (i image) setSection(name string, change func(*elf.Section64)) image {
	i.t.Helper()
	n, s := i.section(name)
	change(&s)
	i.encode(i.offset(n), s)
	return i
}

func (i image) offset(section int) int {
	h := i.header()
	return int(h.Shoff) + section*int(h.Shentsize)
}

func (i image) section(name string) (int, elf.Section64) {
	i.t.Helper()
	h := i.header()
	var names elf.Section64
	i.decode(i.offset(int(h.Shstrndx)), &names)
	for n := range int(h.Shnum) {
		var s elf.Section64
		i.decode(i.offset(n), &s)
		if cString(i.b[names.Off:], s.Name) == name {
			return n, s
		}
	}
	i.t.Fatalf("no section %q", name)
	return 0, elf.Section64{}
}

// replace gives a section new contents, at the end of the file.
func (i image) replace(name string, contents []byte) image {
	i.t.Helper()
	_, old := i.section(name)
	clear(i.b[old.Off:][:old.Size])
	i.setSection(name, func(s *elf.Section64) { s.Off, s.Size = uint64(len(i.b)), uint64(len(contents)) })
	i.b = append(i.b, contents...)
	return i
}

func (i image) decode(off int, v any) {
	i.t.Helper()
	if _, err := binary.Decode(i.b[off:], binary.NativeEndian, v); err != nil {
		i.t.Fatal(err)
	}
}

func (i image) encode(off int, v any) {
	i.t.Helper()
	if _, err := binary.Encode(i.b[off:], binary.NativeEndian, v); err != nil {
		i.t.Fatal(err)
	}
}

// btf is a .BTF section.
func rawBTF(types, names []byte) []byte {
	b := []byte{0x9f, 0xeb, 1, 0}
	for _, v := range []int{24, 0, len(types), len(types), len(names)} {
		b = binary.NativeEndian.AppendUint32(b, uint32(v))
	}
	return append(append(b, types...), names...)
}

func words(v ...uint32) (b []byte) {
	for _, w := range v {
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	return b
}

func TestPrescanRefuses(t *testing.T) {
	longName := append(make([]byte, 1), append(bytes.Repeat([]byte{'n'}, 12<<10), 0)...)
	for _, c := range []struct {
		name  string
		image func(i image) image
		says  string
	}{
		{"4 GiB of zeroes", func(i image) image {
			return i.setSection(".bss", func(s *elf.Section64) { s.Size = 4 << 30 })
		}, "4294967296 bytes are more than 8388608"},
		{"all the zeroes there can be", func(i image) image {
			return i.setSection(".bss", func(s *elf.Section64) { s.Size = 1<<64 - 1 })
		}, "18446744073709551615 bytes"},
		{"many sections of zeroes", func(i image) image {
			for n := 1; n < int(i.header().Shnum); n++ {
				if n != int(i.header().Shstrndx) {
					i.encode(i.offset(n)+4, uint32(elf.SHT_NOBITS))
					i.encode(i.offset(n)+32, uint64(maxSection))
				}
			}
			return i
		}, "bytes of zeroes are more than"},
		{"sections that share bytes", func(i image) image {
			for _, name := range []string{".rodata", ".data", "license"} {
				i = i.setSection(name, func(s *elf.Section64) { s.Off, s.Size = 0, uint64(len(i.b)) })
			}
			return i
		}, "they overlap"},
		{"a section behind the end", func(i image) image {
			return i.setSection(".data", func(s *elf.Section64) { s.Off = uint64(len(i.b)) - 1 })
		}, "ends behind the end of the file"},
		{"a section whose end overflows", func(i image) image {
			return i.setSection(".data", func(s *elf.Section64) { s.Off = 1<<64 - 2 })
		}, "ends behind the end of the file"},
		{"a compressed section", func(i image) image {
			return i.setSection(".data", func(s *elf.Section64) { s.Flags |= uint64(elf.SHF_COMPRESSED) })
		}, "it is compressed"},
		{"too many sections", func(i image) image {
			return i.setHeader(func(h *elf.Header64) { h.Shnum = maxSections + 1 })
		}, "257 section headers"},
		{"a number of sections that stands elsewhere", func(i image) image {
			return i.setHeader(func(h *elf.Header64) { h.Shnum = 0 })
		}, "0 section headers"},
		{"section headers behind the end", func(i image) image {
			return i.setHeader(func(h *elf.Header64) { h.Shoff = uint64(len(i.b)) })
		}, "section headers: it ends behind the end"},
		{"section headers of another size", func(i image) image {
			return i.setHeader(func(h *elf.Header64) { h.Shentsize = 65535 })
		}, "section headers of 65535 bytes"},
		{"names in a section that is not there", func(i image) image {
			return i.setHeader(func(h *elf.Header64) { h.Shstrndx = h.Shnum })
		}, "section names in section"},
		{"program headers", func(i image) image {
			return i.setHeader(func(h *elf.Header64) { h.Phnum = 65535 })
		}, "65535 program headers"},
		{"another machine", func(i image) image {
			return i.setHeader(func(h *elf.Header64) { h.Machine = uint16(elf.EM_X86_64) })
		}, "machine EM_X86_64, an eBPF object has EM_BPF"},
		{"32 bits", func(i image) image {
			i.b[elf.EI_CLASS] = byte(elf.ELFCLASS32)
			return i
		}, "class ELFCLASS32"},
		{"not ELF", func(i image) image {
			copy(i.b, "#!/b")
			return i
		}, `begins with "#!/b"`},
		{"symbols that share a long name", func(i image) image {
			i = i.replace(".symtab", bytes.Repeat(append(words(1), make([]byte, elf.Sym64Size-4)...), 2000))
			n, _ := i.section(".BTF")
			i = i.replace(".BTF", longName)
			return i.setSection(".symtab", func(s *elf.Section64) { s.Link = uint32(n) })
		}, "symbol table: names of more than 16777216 bytes"},
		{"symbol names in a section that is not there", func(i image) image {
			return i.setSection(".symtab", func(s *elf.Section64) { s.Link = 99 })
		}, "symbol table: names in section 99"},
		{"too much type information", func(i image) image {
			return i.replace(".BTF", make([]byte, maxBTF+1))
		}, "bytes of type information are more than 4194304"},
		{"too much about lines", func(i image) image {
			return i.replace(".BTF.ext", make([]byte, maxBTF+1))
		}, "4194305 bytes are more than 4194304"},
		{"types that refer to each other without end", func(i image) image {
			return i.replace(".BTF", rawBTF(bytes.Repeat(words(0, 2<<24, 1), maxTypes+1), []byte{0}))
		}, "more than 65536 types"},
		{"types that share a long name", func(i image) image {
			return i.replace(".BTF", rawBTF(bytes.Repeat(words(1, 7<<24, 0), 2000), longName))
		}, "type information: names of more than 16777216 bytes"},
		{"members that share a long name", func(i image) image {
			members := bytes.Repeat(words(1, 0, 0), 2000)
			return i.replace(".BTF", rawBTF(append(words(0, 4<<24|2000, 0), members...), longName))
		}, "type information: names of more than 16777216 bytes"},
		{"a type's name without end", func(i image) image {
			return i.replace(".BTF", rawBTF(nil, append(bytes.Repeat([]byte{'n'}, maxString+1), 0)))
		}, "a string of 16385 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := c.image(imageOf(t, "vars"))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := openSpec(bytes.NewReader(i.b), int64(len(i.b)))
			runtime.ReadMemStats(&after)
			wantError(t, err, "object: ", c.says)
			var oe *ObjectError
			if !errors.As(err, &oe) {
				t.Errorf("%T is not an *ObjectError", err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 32<<20 {
				t.Errorf("refusing it allocated %d bytes", n)
			}
		})
	}
}

// What the tests above change must load as it is.
func TestPrescanAccepts(t *testing.T) {
	objects, err := filepath.Glob("testdata/*.bpf.o")
	if err != nil || len(objects) < 8 {
		t.Fatalf("%d fixtures, %v", len(objects), err)
	}
	for _, file := range objects {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := openSpec(bytes.NewReader(b), int64(len(b))); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	i := imageOf(t, "vars").setSection(".bss", func(s *elf.Section64) { s.Size = maxSection })
	if err := prescan(bytes.NewReader(i.b), int64(len(i.b))); err != nil {
		t.Errorf("a section of the largest size: %v", err)
	}
}

func TestOtherByteOrder(t *testing.T) {
	b, err := os.ReadFile("testdata/plain.bpfeb.o")
	if err != nil {
		t.Fatal(err)
	}
	if nativeData() == elf.ELFDATA2MSB {
		b = fixture(t, "plain")
	}
	_, err = openSpec(bytes.NewReader(b), int64(len(b)))
	wantError(t, err, "byte order ELFDATA2MSB, this machine's is ELFDATA2LSB")
}

func TestTruncatedAnywhere(t *testing.T) {
	for _, name := range []string{"vars", "maps", "plain"} {
		b := fixture(t, name)
		for n := 0; n < len(b); n += 64 {
			spec, err := openSpec(bytes.NewReader(b[:n]), int64(n))
			var oe *ObjectError
			if spec != nil || !errors.As(err, &oe) {
				t.Errorf("%s cut at %d: %v, %v", name, n, spec, err)
			}
		}
	}
}

func TestTooLarge(t *testing.T) {
	_, err := openSpec(bytes.NewReader(nil), maxObject+1)
	wantError(t, err, "8388609 bytes are more than the 8388608 that are read")
}

// A reader that panics, where the library does not expect it, stands for a
// parser that does.
func TestPanicOfTheParser(t *testing.T) {
	i := imageOf(t, "plain")
	_, license := i.section("license")
	_, err := parse(panicking{bytes.NewReader(i.b), int64(license.Off)})
	if err == nil || !strings.Contains(err.Error(), "internal error: the parser panics: boom") {
		t.Errorf("parse = %v", err)
	}
}

type panicking struct {
	io.ReaderAt
	at int64
}

func (p panicking) ReadAt(b []byte, off int64) (int, error) {
	if off == p.at {
		panic("boom")
	}
	return p.ReaderAt.ReadAt(b, off)
}

// Whatever the pre-scan lets through must not cost the parser more than its
// limits say, and it must not end the process.
func FuzzPrescan(f *testing.F) {
	for _, name := range []string{"plain", "kconfig", "tail", "reject"} {
		f.Add(fixture(f, name))
	}
	f.Add([]byte("\x7fELF"))
	f.Add(imageOf(f, "plain").setSection(".rodata", func(s *elf.Section64) {
		s.Type, s.Size = uint32(elf.SHT_NOBITS), 4<<30
	}).b)
	f.Add(imageOf(f, "plain").replace(".BTF", rawBTF(bytes.Repeat(words(0, 2<<24, 1), 100), []byte{0})).b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if prescan(bytes.NewReader(b), int64(len(b))) != nil {
			return
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		spec, err := parse(bytes.NewReader(b))
		runtime.ReadMemStats(&after)
		if err != nil && strings.Contains(err.Error(), "panics") {
			t.Error(err)
		}
		if (spec == nil) != (err != nil) {
			t.Errorf("spec %v with error %v", spec, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 512<<20 {
			t.Errorf("parsing %d bytes allocated %d", len(b), n)
		}
	})
}
