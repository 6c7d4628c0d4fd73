package signing

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hornetd/hornetd/internal/cms"
)

// A file may carry its signature at its end, as the kernel's modules do:
//
//	contents | CMS message | struct module_signature | marker
//
// (include/linux/module_signature.h; scripts/sign-file and kmodsign write it.)
// What is signed is the contents. Of the struct's twelve bytes the fourth says
// that the signature is a CMS message and the last four, big-endian, how long it
// is; nothing signs the others, so they must be 0.
const (
	marker      = "~Module signature appended~\n"
	trailerSize = 12
	idTypePKCS7 = 2
)

// split takes a file apart. signature is nil where none is appended. Both are
// parts of b, not copies, and appending to contents does not write to b.
func split(b []byte) (contents, signature []byte, err error) {
	rest, ok := bytes.CutSuffix(b, []byte(marker))
	if !ok {
		return b, nil, nil
	}
	if len(rest) < trailerSize {
		return nil, nil, errors.New("its appended signature is cut off")
	}
	rest, trailer := rest[:len(rest)-trailerSize], rest[len(rest)-trailerSize:]
	if !bytes.Equal(trailer[:8], []byte{0, 0, idTypePKCS7, 0, 0, 0, 0, 0}) {
		return nil, nil, fmt.Errorf("its appended signature is not CMS, or its trailer (%x) says what nobody signed", trailer)
	}
	size := uint64(binary.BigEndian.Uint32(trailer[8:]))
	if size == 0 || size > cms.MaxSize {
		return nil, nil, fmt.Errorf("its appended signature has %d bytes, 1 to %d are accepted", size, cms.MaxSize)
	}
	if size >= uint64(len(rest)) {
		return nil, nil, fmt.Errorf("its appended signature has %d bytes, more than the file", size)
	}
	n := len(rest) - int(size)
	return rest[:n:n], rest[n:], nil
}

// Append returns contents with a signature by Sign over them at their end.
func Append(contents, signature []byte) []byte {
	trailer := binary.BigEndian.AppendUint32([]byte{0, 0, idTypePKCS7, 0, 0, 0, 0, 0}, uint32(len(signature)))
	return bytes.Join([][]byte{contents, signature, trailer, []byte(marker)}, nil)
}

// Contents returns what is signed, or is to be signed, of a file: all of it but
// a signature at its end. The result is a part of b.
func Contents(b []byte) ([]byte, error) {
	contents, _, err := split(b)
	return contents, err
}
