package manifest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Read reads a manifest and its drop-ins, each once and with read, and returns
// what they say together. last is the manifest as it was before, or the zero one:
// where it has no drop-ins and the bytes are the same it is not parsed again. The
// error is an *Error.
func Read(src Source, last Manifest, read func(file string) ([]byte, error)) (Manifest, error) {
	b, err := read(src.File)
	if err != nil {
		return Manifest{}, unreadable(src.File, err)
	}
	m := last
	if last.File != src.File || len(last.DropIns) > 0 || last.Digest != sha256.Sum256(b) {
		if m, err = src.parse(b); err != nil {
			return Manifest{}, err
		}
	}
	together := 0
	for _, file := range src.DropIns {
		if b, err = read(file); err != nil {
			return Manifest{}, unreadable(file, err)
		}
		if together += len(b); together > MaxSize {
			return Manifest{}, refuseFile(file, "write less", fmt.Errorf("with the drop-ins before it has %d bytes, more than %d", together, MaxSize))
		}
		d, err := ParseDropIn(file, b)
		if err != nil {
			return Manifest{}, err
		}
		if m, err = Apply(m, d); err != nil {
			return Manifest{}, err
		}
	}
	return m, nil
}

// parse parses the text of what s is.
func (s Source) parse(b []byte) (Manifest, error) {
	if _, isOwn := Owner(s.Name); isOwn {
		return ParseOwn(s.File, b)
	}
	_, instance, _ := SplitInstance(s.Name)
	return parse(s.File, b, instance, unowned)
}

func unreadable(file string, err error) error {
	reason := strings.TrimPrefix(err.Error(), file+": ")
	return remedy.With(&Error{File: file, Err: errors.New(reason)}, "%s", remedy.Of(err))
}
