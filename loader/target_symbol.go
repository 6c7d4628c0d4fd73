package loader

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
)

// executable is an ELF file that a uprobe attaches to.
type executable struct {
	path          string
	file          *os.File
	inode, device uint64
}

func openExecutable(path string) (executable, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return executable{}, remedy.With(absent{fmt.Errorf("%s does not exist", path)},
			"name the program or the library that holds the function")
	}
	if err != nil {
		return executable{}, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = remedy.With(fmt.Errorf("%s is not a regular file", path), "name the program or the library that holds the function")
	}
	var st unix.Stat_t
	if err = errors.Join(err, unix.Fstat(int(f.Fd()), &st)); err != nil {
		f.Close()
		return executable{}, err
	}
	return executable{path, f, st.Ino, uint64(st.Dev)}, nil
}

// is reports whether it is the file that Resolve looked into.
func (x executable) is(t Target) bool {
	return x.inode == t.Inode && (t.Device == 0 || x.device == t.Device)
}

func (x executable) close() { x.file.Close() }

// offset returns where in the file the byte `more` behind a function is.
func (x executable) offset(symbol string, more uint64) (uint64, error) {
	info, err := x.file.Stat()
	if err != nil {
		return 0, err
	}
	n, err := symbolOffset(x.file, info.Size(), symbol, more)
	if err != nil {
		return 0, x.symbolError(err)
	}
	return n, nil
}

// symbolOffset finds a function in an ELF file of size bytes and returns where
// in the file the byte `more` behind its start is.
//
// Whoever owns the file may not be root: nothing in it is believed. Only the
// headers are left to debug/elf, which would decompress and list all symbols.
func symbolOffset(r io.ReaderAt, size int64, symbol string, more uint64) (uint64, error) {
	f, err := openELF(r)
	if err != nil {
		return 0, err
	}
	sym, err := findSymbol(f, r, size, symbol)
	if err != nil {
		return 0, err
	}
	return codeOffset(f, sym, symbol, more)
}

// codeOffset returns where in the file the byte `more` behind a function is.
func codeOffset(f *elf.File, sym elf.Sym64, symbol string, more uint64) (uint64, error) {
	switch elf.ST_TYPE(sym.Info) {
	case elf.STT_FUNC:
	case elf.STT_GNU_IFUNC:
		return 0, fmt.Errorf("%q is an indirect function: what it calls is chosen when a program starts", symbol)
	default:
		return 0, fmt.Errorf("%q is no function", symbol)
	}
	if more != 0 && more >= sym.Size {
		return 0, fmt.Errorf("%q is %d bytes long, offset %d is outside", symbol, sym.Size, more)
	}
	at, ok := placeOf(f, sym)
	if !ok {
		return 0, fmt.Errorf("%q is in no executable segment", symbol)
	}
	return at + more, nil
}

// placeOf returns where in the file the code of a symbol is.
func placeOf(f *elf.File, sym elf.Sym64) (uint64, bool) {
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && p.Vaddr <= sym.Value && sym.Value-p.Vaddr < p.Filesz {
			return sym.Value - p.Vaddr + p.Off, true
		}
	}
	return 0, false
}

// offsets returns where in the file the functions are that names and patterns
// mean, at least one for each; if there are too many, not all. A pattern passes
// over what only looks like one.
func (x executable) offsets(wanted []string) ([]uint64, error) {
	info, err := x.file.Stat()
	if err != nil {
		return nil, err
	}
	list, err := symbolOffsets(x.file, info.Size(), wanted)
	if errors.Is(err, errTooLong) {
		return nil, remedy.With(fmt.Errorf("%s: %w", x.path, err), "write fewer patterns, with fewer *; or write the names")
	}
	if err != nil {
		return nil, x.symbolError(err)
	}
	return list, nil
}

// symbolError returns err about the symbols of x, with the remedy.
func (x executable) symbolError(err error) error {
	return remedy.With(fmt.Errorf("%s: %w", x.path, err),
		"name a function that `nm %s` or `nm -D %s` shows; or give its offset in the file and no symbol", x.path, x.path)
}

// mostSteps bounds the comparisons of bytes that patterns make in one file: about
// a second. An ordinary one takes a thousandth of it.
const mostSteps = 1 << 28

var errTooLong = fmt.Errorf("to compare all symbols takes more than %d steps", mostSteps)

// symbolOffsets is symbolOffset for names and patterns, all in one walk: the file
// may have millions of symbols. It stops where there are too many functions.
func symbolOffsets(r io.ReaderAt, size int64, wanted []string) (list []uint64, err error) {
	f, err := openELF(r)
	if err != nil {
		return nil, err
	}
	names, hits := map[string]*versions{}, make([]int, len(wanted))
	for _, w := range wanted {
		if !isPattern(w) {
			names[w] = &versions{}
		}
	}
	seen, steps := map[uint64]bool{}, 0
	err = eachSymbol(f, r, size, func(sym elf.Sym64, table []byte, hidden bool) bool {
		name := nameAt(table, sym.Name)
		if v := names[string(name)]; v != nil {
			v.add(sym, hidden)
		}
		if len(names) == len(wanted) || hidden || elf.ST_TYPE(sym.Info) != elf.STT_FUNC {
			return true
		}
		for i, w := range wanted {
			if !isPattern(w) {
				continue
			}
			ok, n := matches(w, name)
			if steps += n; steps > mostSteps {
				return false
			}
			if !ok {
				continue
			}
			if at, ok := placeOf(f, sym); ok {
				hits[i]++
				if !seen[at] {
					seen[at] = true
					list = append(list, at)
				}
			}
		}
		return len(list) <= mostFunctions
	})
	switch {
	case err != nil:
		return nil, err
	case steps > mostSteps:
		return nil, errTooLong
	case len(list) > mostFunctions:
		return list, nil
	}
	for i, w := range wanted {
		v := names[w]
		if v == nil {
			if hits[i] == 0 {
				return nil, fmt.Errorf("there is no function %q", w)
			}
			continue
		}
		sym, err := v.best(w)
		if err != nil {
			return nil, err
		}
		at, err := codeOffset(f, sym, w, 0)
		if err != nil {
			return nil, err
		}
		list = append(list, at)
	}
	return list, nil
}

// versions are what a name is of in a file.
type versions struct {
	found, old *elf.Sym64 // the first default one, one for old programs; nil: none
}

func (v *versions) add(sym elf.Sym64, hidden bool) {
	if v.found != nil {
		return
	}
	s := sym // only here it needs memory, not for every symbol
	if hidden {
		v.old = &s
	} else {
		v.found = &s
	}
}

// best returns the symbol that the linker would take.
func (v *versions) best(name string) (elf.Sym64, error) {
	switch {
	case v.found != nil:
		return *v.found, nil
	case v.old != nil:
		return *v.old, nil
	}
	return elf.Sym64{}, fmt.Errorf("there is no function %q", name)
}

// openELF reads the headers of a program or library.
func openELF(r io.ReaderAt) (*elf.File, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, errors.New("not an ELF file")
	}
	if f.Class != elf.ELFCLASS64 || f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return nil, errors.New("not a 64-bit program or library")
	}
	return f, nil
}

// findSymbol looks a symbol up in both symbol tables. Of several versions of a
// dynamic symbol it takes the default one.
func findSymbol(f *elf.File, r io.ReaderAt, size int64, name string) (elf.Sym64, error) {
	var v versions
	err := eachSymbol(f, r, size, func(sym elf.Sym64, names []byte, hidden bool) bool {
		if isName(names, sym.Name, name) {
			v.add(sym, hidden)
		}
		return v.found == nil
	})
	if err != nil {
		return elf.Sym64{}, err
	}
	return v.best(name)
}

// eachSymbol calls fn with every symbol that is defined in the file, its table's
// names, and whether it is a version for old programs, until fn returns false.
func eachSymbol(f *elf.File, r io.ReaderAt, size int64, fn func(sym elf.Sym64, names []byte, hidden bool) bool) error {
	for _, typ := range []elf.SectionType{elf.SHT_SYMTAB, elf.SHT_DYNSYM} {
		symbols, names, versions, err := symbolTable(f, r, size, typ)
		if err != nil {
			return err
		}
		for i := 0; (i+1)*elf.Sym64Size <= len(symbols); i++ {
			sym := symbol64(f.ByteOrder, symbols[i*elf.Sym64Size:])
			if sym.Shndx == uint16(elf.SHN_UNDEF) {
				continue
			}
			const notDefault = 0x8000 // VERSYM_HIDDEN
			hidden := len(versions) >= 2*i+2 && f.ByteOrder.Uint16(versions[2*i:])&notDefault != 0
			if !fn(sym, names, hidden) {
				return nil
			}
		}
	}
	return nil
}

// symbolTable reads a symbol table with its names and, of dynamic symbols, the
// versions. All are empty where there is none.
func symbolTable(f *elf.File, r io.ReaderAt, size int64, typ elf.SectionType) (symbols, names, versions []byte, err error) {
	table := f.SectionByType(typ)
	if table == nil {
		return nil, nil, nil, nil
	}
	if int(table.Link) >= len(f.Sections) {
		return nil, nil, nil, errors.New("the symbols have no names")
	}
	if symbols, err = readSection(table, r, size); err != nil {
		return nil, nil, nil, err
	}
	if names, err = readSection(f.Sections[table.Link], r, size); err != nil {
		return nil, nil, nil, err
	}
	if s := f.SectionByType(elf.SHT_GNU_VERSYM); s != nil && typ == elf.SHT_DYNSYM {
		versions, err = readSection(s, r, size)
	}
	return symbols, names, versions, err
}

// readSection reads a section that lies within the file and is not too large.
func readSection(s *elf.Section, r io.ReaderAt, size int64) ([]byte, error) {
	const largest = 128 << 20
	switch {
	case s.Flags&elf.SHF_COMPRESSED != 0 || s.Type == elf.SHT_NOBITS:
		return nil, fmt.Errorf("section %q is compressed or empty", s.Name)
	case s.FileSize > largest:
		return nil, fmt.Errorf("section %q is larger than %d MiB", s.Name, largest>>20)
	case s.Offset > uint64(size) || s.FileSize > uint64(size)-s.Offset:
		return nil, fmt.Errorf("section %q is not within the file", s.Name)
	}
	b := make([]byte, s.FileSize)
	if len(b) == 0 {
		return nil, nil
	}
	if _, err := r.ReadAt(b, int64(s.Offset)); err != nil {
		return nil, fmt.Errorf("section %q: %w", s.Name, err)
	}
	return b, nil
}

func symbol64(order binary.ByteOrder, b []byte) elf.Sym64 {
	return elf.Sym64{
		Name:  order.Uint32(b),
		Info:  b[4],
		Other: b[5],
		Shndx: order.Uint16(b[6:]),
		Value: order.Uint64(b[8:]),
		Size:  order.Uint64(b[16:]),
	}
}

// isName says whether the NUL-terminated string at an offset of table is name.
func isName(table []byte, at uint32, name string) bool {
	if uint64(at)+uint64(len(name)) >= uint64(len(table)) {
		return false
	}
	rest := table[at:]
	return bytes.HasPrefix(rest, []byte(name)) && rest[len(name)] == 0
}

// nameAt returns the NUL-terminated string at an offset of table; none where there
// is none or one longer than manifests have: the names of all symbols may be one
// and the same, as long as the file.
func nameAt(table []byte, at uint32) []byte {
	if uint64(at) >= uint64(len(table)) {
		return nil
	}
	rest := table[at:]
	name, _, ok := bytes.Cut(rest[:min(len(rest), manifest.LongestSymbol+1)], []byte{0})
	if !ok {
		return nil
	}
	return name
}
