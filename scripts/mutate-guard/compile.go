package main

import (
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// verdict is what became of a mutant.
type verdict int

const (
	untried  verdict = iota
	invalid          // does not compile
	same             // the compiler makes the code of the guard of it, or of another mutant
	refused          // by the kernel's verifier
	survived         // no test notices it
	noticed
)

func (v verdict) String() string {
	return []string{"untried", "does not compile", "the same code", "refused", "NOT NOTICED", "noticed"}[v]
}

// compiler makes objects of mutants, in a copy of what the guard is made of.
type compiler struct {
	work   string
	source []byte
	code   map[[32]byte]bool // that there is an object of
}

// unchanged is the object of the guard as it is.
const unchanged = "unchanged.o"

// objects is the directory of the objects, below the work directory.
const objects = "objects"

func newCompiler(work string, source []byte) (*compiler, error) {
	c := &compiler{work, source, map[[32]byte]bool{}}
	for _, dir := range []string{objects, "lsm-module", "scripts", "examples"} {
		if err := os.Mkdir(filepath.Join(work, dir), 0o755); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"lsm-module/guard.h", "scripts/bpf-compile"} {
		b, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(work, name), b, 0o755)
		}
		if err != nil {
			return nil, err
		}
	}
	// A mutant may leave a function or a variable without use.
	cc := "#!/bin/sh\nexec clang-19 \"$@\" -w\n"
	err := errors.Join(os.CopyFS(filepath.Join(work, "examples/headers"), os.DirFS("examples/headers")),
		os.WriteFile(filepath.Join(work, "cc"), []byte(cc), 0o755))
	if err != nil {
		return nil, err
	}
	if v := c.make(source, unchanged); v != untried {
		return nil, fmt.Errorf("%s: %s as it is", guard, v)
	}
	return c, nil
}

// compile makes the object of a mutant, and returns its name.
func (c *compiler) compile(m mutant, number int) (string, verdict) {
	name := fmt.Sprintf("%d.o", number)
	return name, c.make(slices.Concat(c.source[:m.from], []byte(m.text), c.source[m.to:]), name)
}

func (c *compiler) make(source []byte, name string) verdict {
	dir := filepath.Join(c.work, "lsm-module")
	if os.WriteFile(filepath.Join(dir, "guard.bpf.c"), source, 0o600) != nil {
		return invalid
	}
	cmd := exec.Command("../scripts/bpf-compile", "guard.bpf.c")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "BPF_CC="+filepath.Join(c.work, "cc"))
	made := filepath.Join(dir, "guard.bpf.o")
	if cmd.Run() != nil {
		return invalid
	}
	sum, err := code(made)
	if err != nil {
		return invalid
	}
	if c.code[sum] {
		return same
	}
	c.code[sum] = true
	object := filepath.Join(c.work, objects, name)
	if errors.Join(os.Rename(made, object), os.Chmod(object, 0o644)) != nil {
		return invalid
	}
	return untried
}

// code is the sum of what is loaded of an object, without the types and the lines of
// the source that go with it.
func code(object string) (sum [32]byte, err error) {
	f, err := elf.Open(object)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	for _, s := range f.Sections {
		if s.Type == elf.SHT_NULL || s.Type == elf.SHT_STRTAB || strings.Contains(s.Name, ".BTF") || s.Name == ".llvm_addrsig" {
			continue
		}
		b, err := s.Data()
		if err != nil && s.Type != elf.SHT_NOBITS {
			return sum, err
		}
		fmt.Fprintln(h, s.Name, s.Size)
		h.Write(b)
	}
	return [32]byte(h.Sum(nil)), nil
}
