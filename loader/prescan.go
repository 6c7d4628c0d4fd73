package loader

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
)

// Limits of what the ELF parser is handed. The parser allocates what the file
// declares: nine kilobytes can ask for four gigabytes, and an allocation that
// fails ends the process. Real objects stay far below (the largest seen in
// public projects has 4.2 MB), so none of this can be configured.
const (
	maxObject   = 8 << 20  // bytes of the file
	maxSections = 256      // section headers
	maxSegments = 16       // program headers; relocatable files have none
	maxSection  = 8 << 20  // bytes one section declares, .bss included
	maxZeroes   = 8 << 20  // bytes all sections declare that are not in the file
	maxBTF      = 4 << 20  // bytes of .BTF and of .BTF.ext
	maxTypes    = 1 << 16  // types in .BTF: the parser follows references by recursion
	maxString   = 16 << 10 // bytes of one string of .BTF
	maxNames    = 16 << 20 // bytes of all names in a table, each counted as often as it is used
)

// prescan reads the headers of an ELF file and refuses what would cost the
// parser more than the limits above. It allocates next to nothing for a file
// within them and takes time linear in the file's size.
//
// What it lets through is not known to be well-formed, only to be bounded.
func prescan(r io.ReaderAt, size int64) error {
	if size > maxObject {
		return fmt.Errorf("file: %d bytes are more than the %d that are read", size, maxObject)
	}
	hdr, err := readHeader(r, size)
	if err != nil {
		return err
	}
	sections, err := readSections(r, size, hdr)
	if err != nil {
		return err
	}
	if err := checkSizes(sections, size); err != nil {
		return err
	}
	names, err := sections[hdr.Shstrndx].read(r)
	if err != nil {
		return err
	}
	for i, s := range sections {
		var err error
		switch name := cString(names, s.Name); {
		case name == ".BTF":
			err = checkBTF(r, s)
		case name == ".BTF.ext" && s.Size > maxBTF:
			err = fmt.Errorf("%d bytes are more than %d", s.Size, maxBTF)
		case s.Type == uint32(elf.SHT_SYMTAB):
			err = checkSymbols(r, s, sections)
		}
		if err != nil {
			return fmt.Errorf("section %d: %w", i, err)
		}
	}
	return nil
}

// readHeader reads the file header and checks that the file is a 64-bit eBPF
// object of this machine's byte order.
func readHeader(r io.ReaderAt, size int64) (elf.Header64, error) {
	var h elf.Header64
	b, err := readAt(r, 0, uint64(binary.Size(h)), size)
	if err != nil {
		return h, fmt.Errorf("ELF header: %w", err)
	}
	if !bytes.HasPrefix(b, []byte(elf.ELFMAG)) {
		return h, fmt.Errorf("ELF header: it begins with %q, not with %q", b[:4], elf.ELFMAG)
	}
	if c := elf.Class(b[elf.EI_CLASS]); c != elf.ELFCLASS64 {
		return h, fmt.Errorf("ELF header: class %v, an eBPF object has %v", c, elf.ELFCLASS64)
	}
	if got, want := elf.Data(b[elf.EI_DATA]), nativeData(); got != want {
		return h, fmt.Errorf("ELF header: byte order %v, this machine's is %v: %w", got, want, errByteOrder)
	}
	if _, err := binary.Decode(b, binary.NativeEndian, &h); err != nil {
		return h, fmt.Errorf("ELF header: %w", err)
	}
	switch {
	case elf.Machine(h.Machine) != elf.EM_BPF:
		return h, fmt.Errorf("ELF header: machine %v, an eBPF object has %v", elf.Machine(h.Machine), elf.EM_BPF)
	case h.Phnum > maxSegments:
		return h, fmt.Errorf("ELF header: %d program headers are more than %d", h.Phnum, maxSegments)
	case h.Shnum == 0 || h.Shnum > maxSections:
		// 0 may also mean that the number stands elsewhere, because it is large.
		return h, fmt.Errorf("ELF header: %d section headers, not 1 to %d", h.Shnum, maxSections)
	case h.Shentsize != uint16(binary.Size(elf.Section64{})):
		return h, fmt.Errorf("ELF header: section headers of %d bytes, not %d", h.Shentsize, binary.Size(elf.Section64{}))
	case h.Shstrndx >= h.Shnum:
		return h, fmt.Errorf("ELF header: section names in section %d of %d", h.Shstrndx, h.Shnum)
	}
	return h, nil
}

// nativeData returns this machine's byte order as ELF numbers it.
func nativeData() elf.Data {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return elf.ELFDATA2LSB
	}
	return elf.ELFDATA2MSB
}

// section is one section header of a file of size bytes.
type section struct {
	elf.Section64
	file int64
}

func (s section) read(r io.ReaderAt) ([]byte, error) {
	if s.Type == uint32(elf.SHT_NOBITS) {
		return nil, nil
	}
	return readAt(r, s.Off, s.Size, s.file)
}

func readSections(r io.ReaderAt, size int64, h elf.Header64) ([]section, error) {
	raw := make([]elf.Section64, h.Shnum)
	b, err := readAt(r, h.Shoff, uint64(binary.Size(raw)), size)
	if err != nil {
		return nil, fmt.Errorf("section headers: %w", err)
	}
	if _, err := binary.Decode(b, binary.NativeEndian, raw); err != nil {
		return nil, fmt.Errorf("section headers: %w", err)
	}
	sections := make([]section, len(raw))
	for i := range raw {
		sections[i] = section{raw[i], size}
	}
	return sections, nil
}

// checkSizes bounds each section and their sums. Sections that share bytes of
// the file are refused by the sum: the parser copies each of them.
func checkSizes(sections []section, size int64) error {
	var inFile, zeroes uint64
	for i, s := range sections {
		switch {
		case s.Flags&uint64(elf.SHF_COMPRESSED) != 0:
			return fmt.Errorf("section %d: it is compressed", i)
		case s.Size > maxSection:
			return fmt.Errorf("section %d: %d bytes are more than %d", i, s.Size, maxSection)
		case s.Type == uint32(elf.SHT_NOBITS):
			zeroes += s.Size
			continue
		case s.Off > uint64(size) || s.Size > uint64(size)-s.Off:
			return fmt.Errorf("section %d: it ends behind the end of the file", i)
		}
		inFile += s.Size
	}
	if inFile > uint64(size) {
		return fmt.Errorf("sections: they overlap, %d bytes in a file of %d", inFile, size)
	}
	if zeroes > maxZeroes {
		return fmt.Errorf("sections: %d bytes of zeroes are more than %d", zeroes, maxZeroes)
	}
	return nil
}

// checkSymbols bounds what the names of all symbols take: the parser copies a
// name for every symbol that has it, and all can share one long name.
func checkSymbols(r io.ReaderAt, s section, sections []section) error {
	if s.Link >= uint32(len(sections)) {
		return fmt.Errorf("symbol table: names in section %d of %d", s.Link, len(sections))
	}
	table, err := s.read(r)
	if err != nil {
		return fmt.Errorf("symbol table: %w", err)
	}
	names, err := sections[s.Link].read(r)
	if err != nil {
		return fmt.Errorf("symbol names: %w", err)
	}
	sum := newNameSum(names)
	for ; len(table) >= elf.Sym64Size; table = table[elf.Sym64Size:] {
		sum.add(binary.NativeEndian.Uint32(table))
		if sum.total > maxNames {
			return fmt.Errorf("symbol table: names of more than %d bytes", maxNames)
		}
	}
	return nil
}

// cString returns the string that begins at off, or "".
func cString(b []byte, off uint32) string {
	if uint64(off) >= uint64(len(b)) {
		return ""
	}
	n := bytes.IndexByte(b[off:], 0)
	if n < 0 {
		return ""
	}
	return string(b[off : int(off)+n])
}

// readAt reads n bytes at off of a file of size bytes.
func readAt(r io.ReaderAt, off, n uint64, size int64) ([]byte, error) {
	if off > uint64(size) || n > uint64(size)-off {
		return nil, fmt.Errorf("it ends behind the end of the file")
	}
	b := make([]byte, n)
	if _, err := r.ReadAt(b, int64(off)); err != nil {
		return nil, err
	}
	return b, nil
}
