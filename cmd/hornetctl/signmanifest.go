package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/signing"
)

// signManifest signs a manifest and, by the digest in it, its object. The
// manifest is written anew where it lacks the digest or its own name.
func (s *signer) signManifest(file string) (signatureFile, error) {
	text, err := readFile(file, maxManifest)
	if err != nil {
		return signatureFile{}, err
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return signatureFile{}, err
	}
	m, err := manifest.Parse(path, text)
	if err != nil {
		return signatureFile{}, err
	}
	digest, err := objectDigest(m)
	if err != nil {
		return signatureFile{}, err
	}
	switch {
	case m.Object.SHA256 == nil:
		if text, err = pin(m, digest); err != nil {
			return signatureFile{}, err
		}
	case *m.Object.SHA256 != digest:
		return signatureFile{}, remedy.With(m.Errorf("object.sha256", "the SHA-256 of %s is %x", m.Object.Path, digest),
			"remove the line to have it filled in, if this is the object you mean")
	}
	if !m.Named {
		text = append(fmt.Appendf(nil, "name = %q\n", m.Name), text...)
		if _, err := manifest.Parse(path, text); err != nil {
			return signatureFile{}, err
		}
	}
	return s.rewritten(file, []byte(m.Source()), text)
}

// rewritten signs file, whose text was old, as text.
func (s *signer) rewritten(file string, old, text []byte) (signatureFile, error) {
	out := signatureFile{File: file, Signature: file + ".p7s"}
	if err := s.mayReplace(out, text); err != nil {
		return signatureFile{}, err
	}
	if !bytes.Equal(old, text) {
		info, err := os.Stat(file)
		if err != nil {
			return signatureFile{}, bare(err)
		}
		if err := replace(file, text, info.Mode().Perm()); err != nil {
			return signatureFile{}, err
		}
	}
	return s.beside(file, text)
}

// objectDigest is what object.sha256 must be.
func objectDigest(m manifest.Manifest) ([32]byte, error) {
	object, err := readFile(m.Object.Path, maxObject)
	if err != nil {
		return [32]byte{}, noObject(m, err)
	}
	contents, err := signing.Contents(object)
	if err != nil {
		return [32]byte{}, m.Errorf("object.path", "%s: %w", m.Object.Path, err)
	}
	return sha256.Sum256(contents), nil
}

// pin returns the text of m with object.sha256 below object.path, written like
// that. What came of it is parsed: a text that is not laid out line by line is
// left to whoever wrote it.
func pin(m manifest.Manifest, digest [32]byte) ([]byte, error) {
	line, _ := m.Line("object.path")
	lines := strings.SplitAfter(m.Source(), "\n")
	at := lines[line-1]
	before, _, _ := strings.Cut(at, "path")
	if !strings.HasSuffix(at, "\n") {
		lines[line-1] += "\n"
	}
	text := strings.Join(slices.Insert(lines, line, fmt.Sprintf("%ssha256 = \"%x\"\n", before, digest)), "")
	pinned, err := manifest.Parse(m.File, []byte(text))
	if err != nil || pinned.Object.SHA256 == nil || *pinned.Object.SHA256 != digest || pinned.Object.Path != m.Object.Path {
		return nil, remedy.With(m.Errorf("object.path", "object.sha256 is missing, and this layout leaves no place to write it to"),
			"write sha256 = \"%x\" into [object]", digest)
	}
	return []byte(text), nil
}
