package loader

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// executable is an ELF file that a uprobe attaches to.
type executable struct {
	path  string
	file  *os.File
	inode uint64
}

func openExecutable(path string) (executable, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return executable{}, remedy.With(fmt.Errorf("%s does not exist", path),
			"name the program or the library that holds the function")
	}
	if err != nil {
		return executable{}, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = remedy.With(fmt.Errorf("%s is not a regular file", path), "name the program or the library that holds the function")
	}
	inode, e := inodeOf(f)
	if err = errors.Join(err, e); err != nil {
		f.Close()
		return executable{}, err
	}
	return executable{path, f, inode}, nil
}

func (x executable) close() { x.file.Close() }

// offset returns where in the file the byte `more` behind a function is.
func (x executable) offset(symbol string, more uint64) (uint64, error) {
	f, err := elf.NewFile(x.file)
	if err != nil {
		return 0, remedy.With(fmt.Errorf("%s is not an ELF file: %v", x.path, err),
			"name the program or the library itself, not a script that starts it")
	}
	if f.Class != elf.ELFCLASS64 {
		return 0, fmt.Errorf("%s is not a 64-bit ELF file", x.path)
	}
	sym, err := x.find(f, symbol)
	if err != nil {
		return 0, err
	}
	if elf.ST_TYPE(sym.Info) != elf.STT_FUNC {
		return 0, remedy.With(fmt.Errorf("%q in %s is no plain function", symbol, x.path),
			"name one of its implementations, or give the offset in the file instead of the symbol")
	}
	if more != 0 && more >= sym.Size {
		return 0, remedy.With(fmt.Errorf("offset %d is outside of %q, which is %d bytes long", more, symbol, sym.Size),
			"write an offset that is smaller")
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && p.Vaddr <= sym.Value && sym.Value-p.Vaddr < p.Filesz {
			return sym.Value - p.Vaddr + p.Off + more, nil
		}
	}
	return 0, fmt.Errorf("%q in %s is in no executable segment", symbol, x.path)
}

// find looks a symbol up in the symbol tables. Of several versions of a
// dynamic symbol it takes the default one.
func (x executable) find(f *elf.File, name string) (elf.Sym64, error) {
	var hidden *elf.Sym64
	for _, typ := range []elf.SectionType{elf.SHT_SYMTAB, elf.SHT_DYNSYM} {
		table := f.SectionByType(typ)
		if table == nil {
			continue
		}
		if int(table.Link) >= len(f.Sections) {
			return elf.Sym64{}, fmt.Errorf("%s: symbol table without names", x.path)
		}
		symbols, err := x.section(table)
		if err != nil {
			return elf.Sym64{}, err
		}
		names, err := x.section(f.Sections[table.Link])
		if err != nil {
			return elf.Sym64{}, err
		}
		var versions []byte
		if s := f.SectionByType(elf.SHT_GNU_VERSYM); s != nil && typ == elf.SHT_DYNSYM {
			if versions, err = x.section(s); err != nil {
				return elf.Sym64{}, err
			}
		}
		for i := 0; (i+1)*elf.Sym64Size <= len(symbols); i++ {
			sym := symbol64(f.ByteOrder, symbols[i*elf.Sym64Size:])
			if sym.Shndx == uint16(elf.SHN_UNDEF) || !isName(names, sym.Name, name) {
				continue
			}
			const notDefault = 0x8000 // VERSYM_HIDDEN
			if len(versions) >= 2*i+2 && f.ByteOrder.Uint16(versions[2*i:])&notDefault != 0 {
				hidden = &sym
				continue
			}
			return sym, nil
		}
	}
	if hidden != nil {
		return *hidden, nil
	}
	return elf.Sym64{}, remedy.With(fmt.Errorf("%s has no function %q", x.path, name),
		"name one that `nm -D %s` or `nm %s` shows, or give the offset in the file instead of the symbol", x.path, x.path)
}

// section reads a section. Its size is what the file says, which somebody else
// may have written: it is bounded, and never decompressed.
func (x executable) section(s *elf.Section) ([]byte, error) {
	const largest = 128 << 20
	if s.Flags&elf.SHF_COMPRESSED != 0 || s.Type == elf.SHT_NOBITS || s.FileSize > largest {
		return nil, remedy.With(fmt.Errorf("%s: section %s is compressed, empty or larger than %d MiB", x.path, s.Name, largest>>20),
			"give the offset in the file instead of the symbol")
	}
	info, err := x.file.Stat()
	if err != nil {
		return nil, err
	}
	if s.Offset > uint64(info.Size()) || s.FileSize > uint64(info.Size())-s.Offset {
		return nil, fmt.Errorf("%s: section %s is not within the file", x.path, s.Name)
	}
	b := make([]byte, s.FileSize)
	if _, err := x.file.ReadAt(b, int64(s.Offset)); err != nil {
		return nil, fmt.Errorf("%s: section %s: %w", x.path, s.Name, err)
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
