package pinning

import (
	"fmt"
	"strings"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Prefixes of directories that are no collections. No Name begins with one.
const (
	stagePrefix      = "stage-"
	quarantinePrefix = "quarantine-"
)

// GuardDir is the directory of the store that the guard's own pins are in. No Name
// begins with '_'.
const GuardDir = "_guard"

// maxName is the longest collection name, maxInstance the longest instance of a
// template behind it and maxPin the longest name bpffs takes, all in bytes.
const (
	maxName     = 63
	maxInstance = 63
	maxPin      = 255
)

// Name is a collection's checked name: a directory of the store. Only
// ParseName makes one; the zero Name names nothing.
type Name struct{ s string }

// ParseName checks that s can name a collection: a lower-case letter, then up
// to 62 lower-case letters, digits, '-' and '_', and not the beginning of a
// name the store uses itself; behind that maybe an '@' and an instance, up to 63
// letters, digits, ':', '-' and '_'.
func ParseName(s string) (Name, error) {
	if why := badName(s); why != "" {
		err := fmt.Errorf("collection name %.80q: %s", s, why)
		return Name{}, remedy.With(err, "use a lower-case letter, then at most %d lower-case letters, digits, '-' or '_'", maxName-1)
	}
	return Name{s}, nil
}

func badName(s string) string {
	s, instance, isInstance := strings.Cut(s, "@")
	switch {
	case isInstance && (instance == "" || len(instance) > maxInstance):
		return fmt.Sprintf("instance has %d bytes, must have 1 to %d", len(instance), maxInstance)
	case s == "":
		return "empty"
	case len(s) > maxName:
		return fmt.Sprintf("%d bytes, more than %d", len(s), maxName)
	case s[0] < 'a' || s[0] > 'z':
		return "begins with something else than a lower-case letter"
	case strings.HasPrefix(s, stagePrefix) || strings.HasPrefix(s, quarantinePrefix):
		return "begins with a prefix the store uses itself"
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return fmt.Sprintf("character %q at byte %d", c, i)
		}
	}
	for i := range len(instance) {
		c := instance[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != ':' && c != '-' && c != '_' {
			return fmt.Sprintf("character %q at byte %d of its instance", c, i)
		}
	}
	return ""
}

// String returns the name.
func (n Name) String() string { return n.s }

// PinName returns the file name under which an object is pinned. bpffs refuses
// names with a dot (bpf_lookup in kernel/bpf/inode.c), so dots become '_', as
// libbpf does it: ".rodata" is pinned as "_rodata".
func PinName(object string) (string, error) {
	bad := func(format string, args ...any) (string, error) {
		return "", remedy.With(fmt.Errorf("pin name "+format, args...),
			"name maps and programs in the C source as C does: letters, digits and _, at most %d bytes", maxPin)
	}
	if object == "" {
		return bad("%q: empty", object)
	}
	if len(object) > maxPin {
		return bad("%.80q…: %d bytes, more than %d", object, len(object), maxPin)
	}
	for i := range len(object) {
		if c := object[i]; c <= ' ' || c >= 0x7f || c == '/' {
			return bad("%q: %q at byte %d", object, object[i:i+1], i)
		}
	}
	return strings.ReplaceAll(object, ".", "_"), nil
}
