package loader

import (
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/signing"
)

var errByteOrder = errors.New("wrong byte order")

// ObjectError means that an object, although its signature is good, is not one
// that can be loaded: not an eBPF object, for another machine, too large, or
// using what is not supported. errors.As finds it.
type ObjectError struct{ Err error }

func (e *ObjectError) Error() string { return "object: " + e.Err.Error() }
func (e *ObjectError) Unwrap() error { return e.Err }

// OpenSpec parses an object from the bytes that were verified. It touches
// neither the kernel nor the file again, and pins nothing: whatever the object
// says about pinning is dropped, because a map that is pinned by name adopts
// whatever lies at that path.
//
// The error is an *ObjectError.
func OpenSpec(v signing.Verified) (*ebpf.CollectionSpec, error) {
	return openSpec(v.Reader(), int64(v.Size()))
}

func openSpec(r io.ReaderAt, size int64) (*ebpf.CollectionSpec, error) {
	if err := prescan(r, size); err != nil {
		err = error(&ObjectError{err})
		if errors.Is(err, errByteOrder) {
			return nil, remedy.With(err, "compile it with clang -target bpf on this machine, or with -target %s", nativeTarget())
		}
		return nil, remedy.With(err, "compile it with clang -target bpf -g -O2 -c and strip debug sections with llvm-strip -g, then sign it again")
	}
	spec, err := parse(r)
	if err != nil {
		return nil, remedy.With(&ObjectError{err}, "compile it with clang 12 or newer and -g, with maps declared as libbpf does (SEC(\".maps\"))")
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
		if m.InnerMap != nil {
			m.InnerMap.Pinning = ebpf.PinNone
		}
	}
	return spec, nil
}

// parse hands the bytes to the library. It has had panics on malformed input,
// and one object must not end the daemon that owns all others.
func parse(r io.ReaderAt) (spec *ebpf.CollectionSpec, err error) {
	defer func() {
		if p := recover(); p != nil {
			spec, err = nil, fmt.Errorf("internal error: the parser panics: %v", p)
		}
	}()
	return ebpf.LoadCollectionSpecFromReader(r)
}

// nativeTarget is what clang calls this machine's byte order.
func nativeTarget() string {
	if nativeData() == 1 {
		return "bpfel"
	}
	return "bpfeb"
}
