package loader

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
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

// Preview parses an object whose bytes nobody has verified, or vouches for, and
// plans it as if every map of it were declared; it returns what OpenSpec would
// refuse. It is for a process that has nothing to lose: whatever goes wrong in
// there goes wrong first there.
func Preview(object []byte) error {
	spec, err := openSpec(bytes.NewReader(object), int64(len(object)))
	var refused *ObjectError
	if errors.As(err, &refused) {
		return remedy.With(refused.Err, "%s", remedy.Of(err)) // who passes it on says that it is about an object
	}
	// The manifest is not here, so that what the plan refuses says nothing. What
	// it costs, and that it ends, is the object's doing.
	declared := manifest.Manifest{Maps: map[string]manifest.Map{"*": {Class: manifest.ClassMutable, MaxEntries: 1}}}
	_, _ = NewPlan(spec, declared)
	return nil
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
