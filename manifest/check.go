package manifest

import (
	"encoding/hex"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/hornetd/hornetd/internal/tomlfile"
)

// checker turns the raw file into a Manifest and notes what is wrong with it.
type checker struct {
	*tomlfile.Problems
	at  func(key string) *tomlfile.Text // where a key stands
	dir string                          // of the manifest
}

var (
	identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	mapName    = regexp.MustCompile(`^\.?[A-Za-z_][A-Za-z0-9_.]{0,126}$`) // a C identifier or a data section
	signerName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.@+-]{0,127}$`)
)

// all stands for every map that is not named.
const all = "*"

// named reports whether the text says a name, which must be the file's: a signed
// manifest is not another collection's under another file name.
func (c checker) named(s *string, file string) bool {
	if s != nil && *s != file {
		c.Add("name", fmt.Sprintf("name the file %.70s.toml, or write name = %q and sign it again", *s, file), "is %.80q, and the file's name makes it %q", *s, file)
	}
	return s != nil
}

func (c checker) description(s string) string {
	const limit = 200
	if c.Printable("description", s) && len(s) > limit {
		c.Add("description", "write one line", "has %d bytes, more than %d", len(s), limit)
	}
	return s
}

func (c checker) start(s string) Start {
	if s == "" {
		return StartBoot
	}
	c.OneOf("start", s, string(StartBoot), string(StartRequest))
	return Start(s)
}

func (c checker) fail(s string) Fail {
	if s == "" {
		return FailOpen
	}
	c.OneOf("fail", s, string(FailOpen), string(FailClosed))
	return Fail(s)
}

// maxOthers is how many collections one can require, or come after.
const maxOthers = 64

// others checks the names of other collections.
func (c checker) others(key, self string, names []string) []string {
	if len(names) > maxOthers {
		c.Add(key, "name fewer", "names %d collections, more than %d", len(names), maxOthers)
		return nil
	}
	for i, name := range names {
		at := fmt.Sprintf("%s[%d]", key, i)
		switch {
		case ValidName(name) != nil:
			c.Add(at, "write the name of a manifest's file, without .toml and the digits that order it", "%.80q is not the name of a collection", name)
		case name == self:
			c.Add(at, "remove it", "is this collection itself")
		case slices.Contains(names[:i], name):
			c.Add(at, "remove one", "%q stands there twice", name)
		}
	}
	return names
}

func (c checker) object(raw rawObject) Object {
	o := Object{Path: c.beside("object.path", raw.Path)}
	if raw.Path == "" {
		c.Add("object.path", `write [object] and below it path = "NAME.bpf.o"`, "is missing")
	}
	o.Signature = o.Path + ".p7s"
	if raw.Signature != "" {
		o.Signature = c.beside("object.signature", raw.Signature)
	}
	if raw.Signers != nil {
		o.Signers = c.signers(*raw.Signers)
	}
	if raw.SHA256 != "" {
		o.SHA256 = c.sha256(raw.SHA256)
	}
	return o
}

// signers checks the names that object.signers lists.
func (c checker) signers(names []string) []string {
	const key = "object.signers"
	if len(names) == 0 {
		c.Add(key, "name a signer, or remove the key to accept every signer that the policy does", "is empty")
	}
	seen := map[string]bool{}
	for i, name := range names {
		at := fmt.Sprintf("%s[%d]", key, i)
		switch {
		case !signerName.MatchString(name):
			c.Add(at, "write the name of a file in the trust store, without .pem", "%.80q is not the name of a signer", name)
		case seen[name]:
			c.Add(at, "remove one", "%q stands there twice", name)
		}
		seen[name] = true
	}
	return names
}

func (c checker) sha256(s string) *[32]byte {
	sum, err := hex.DecodeString(s)
	if err != nil || len(sum) != 32 {
		c.Add("object.sha256", "write what sha256sum prints for the object", "%.80q is not 64 hexadecimal digits", s)
		return nil
	}
	return (*[32]byte)(sum)
}

// beside returns a path that is absolute, or else lies beside the manifest or
// below its directory.
func (c checker) beside(key, path string) string {
	switch {
	case path == "" || !c.Printable(key, path):
		return ""
	case filepath.IsAbs(path):
		return c.absolute(key, path)
	case !filepath.IsLocal(path) || path == ".":
		c.Add(key, "write an absolute path", "%.200q leads out of the manifest's directory", path)
	}
	return filepath.Join(c.dir, path)
}

// absolute checks that path is absolute and has no detours.
func (c checker) absolute(key, path string) string {
	if path == "" || !c.Printable(key, path) {
		return path
	}
	if !filepath.IsAbs(path) {
		c.Add(key, "write an absolute path", "%.200q is not an absolute path", path)
	} else if clean := filepath.Clean(path); clean != path {
		c.Add(key, fmt.Sprintf("write %q", clean), "%.200q is not the shortest form of a path", path)
	}
	return path
}

func (c checker) variables(vars map[string]any) map[string]any {
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		c.identifier("variables."+name, name)
	}
	return vars
}

// identifier checks that name is one in C.
func (c checker) identifier(key, name string) {
	if !identifier.MatchString(name) {
		c.Add(key, "write the name as it stands in the C source", "%.80q is not a name in C", name)
	}
}

func (c checker) limits(raw rawLimits) Limits {
	var l Limits
	if raw.Memory != nil {
		l.Memory = uint64(*raw.Memory)
	}
	l.Maps = c.count("limits.maps", raw.Maps)
	l.Programs = c.count("limits.programs", raw.Programs)
	return l
}

// count is a limit, which is not 0: that would read like "none" and mean "the
// policy's".
func (c checker) count(key string, n *uint16) int {
	switch {
	case n == nil:
		return 0
	case *n == 0:
		c.Add(key, "write 1 or more, or remove the key for the policy's limit", "is 0")
	}
	return int(*n)
}

// isBlank tells white space, which people put between hexadecimal digits.
func isBlank(r rune) bool { return strings.ContainsRune(" \t\r\n", r) }
