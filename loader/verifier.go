package loader

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
)

// Bounds of what is kept when a program is rejected. The verifier writes a
// line for every instruction it walks, of which there can be a million: the
// walk is asked for only where it is short.
const (
	logBuffer  = 64 << 10 // bytes to begin with
	maxLog     = 1 << 20  // bytes kept, the last ones
	maxWalk    = 8192     // instructions of which the walk is asked for
	maxMessage = 512      // bytes of the verifier's words in an error
)

// VerifierError means that the kernel's verifier rejected a program. Its
// message has the line that matters and, where the object has line
// information, the place in the source.
type VerifierError struct {
	Reason string // the verifier's last words
	Source string // "file.c:12: text of the line", or ""
	Cause  error  // the errno

	log string
}

func (e *VerifierError) Error() string {
	if e.Source == "" {
		return fmt.Sprintf("rejected by the verifier: %s (%v)", e.Reason, e.Cause)
	}
	return fmt.Sprintf("rejected by the verifier: %s (%v): %s", e.Reason, e.Cause, e.Source)
}

func (e *VerifierError) Unwrap() error { return e.Cause }

// Log returns the verifier's log: all of it up to a megabyte, or its end. It is
// text of the object's author and the kernel, without control characters other
// than newlines.
func (e *VerifierError) Log() string { return e.log }

// loadProgram loads one program. The first try has no log, which is the fast
// way; only where it fails the program is loaded again to learn why.
func loadProgram(p *Plan, spec *ebpf.ProgramSpec, cache *btf.Cache) (*ebpf.Program, error) {
	prog, err := loadOne(spec, cache, ebpf.ProgramOptions{LogDisabled: true})
	if err == nil {
		return prog, nil
	}
	var rejected *ebpf.VerifierError
	if !errors.As(err, &rejected) {
		return nil, explainUnloaded(withoutName(err, spec))
	}
	prog, err = loadOne(spec, cache, ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats, LogSizeStart: logBuffer})
	if err == nil {
		return prog, nil // what stood in the way the first time is gone
	}
	if !errors.As(err, &rejected) {
		if errors.Is(err, unix.EPERM) {
			return nil, explainEPERM(fmt.Sprintf("load a program of type %s", spec.Type), programCapabilities(spec.Type), err)
		}
		return nil, explainUnloaded(withoutName(err, spec))
	}
	if len(rejected.Log) == 0 {
		if errors.Is(err, unix.EPERM) {
			return nil, explainEPERM(fmt.Sprintf("load a program of type %s", spec.Type), programCapabilities(spec.Type), err)
		}
		return nil, remedy.With(fmt.Errorf("load: %w: the kernel gives no reason", rejected.Cause),
			"check that this kernel has programs of type %s, attach type %s", spec.Type, spec.AttachType)
	}
	return nil, explainRejected(p, spec, rejected, walk(spec, cache, rejected.Log))
}

// walk loads a program that was rejected once more for the verifier's walk
// through it, where that is short; else it returns what there is.
func walk(spec *ebpf.ProgramSpec, cache *btf.Cache, log []string) []string {
	if n := instructionsWalked(log); n < 0 || n > maxWalk {
		return append(slices.Clone(log), fmt.Sprintf("(the walk is left out: more than %d instructions)", maxWalk))
	}
	prog, err := loadOne(spec, cache, ebpf.ProgramOptions{LogLevel: ebpf.LogLevelBranch, LogSizeStart: 4 * logBuffer})
	if err == nil {
		prog.Close()
		return log
	}
	var rejected *ebpf.VerifierError
	if errors.As(err, &rejected) && len(rejected.Log) > 0 {
		return rejected.Log
	}
	return log
}

// instructionsWalked returns N of the line "processed N insns (limit …)", or -1.
func instructionsWalked(log []string) int {
	for _, line := range slices.Backward(log) {
		if rest, ok := strings.CutPrefix(line, "processed "); ok {
			number, _, _ := strings.Cut(rest, " ")
			if n, err := strconv.Atoi(number); err == nil {
				return n
			}
		}
	}
	return -1
}

// explainRejected shapes the verifier's answer. short is its log without the
// walk, long with it.
func explainRejected(p *Plan, spec *ebpf.ProgramSpec, rejected *ebpf.VerifierError, long []string) error {
	e := &VerifierError{
		Reason: clean(lastWords(rejected.Log), maxMessage),
		Source: clean(lastSource(long), maxMessage),
		Cause:  rejected.Cause,
		log:    keepEnd(clean(strings.Join(long, "\n"), 0), maxLog),
	}
	if strings.Contains(e.Reason, "write into map forbidden") {
		return hintFrozen(p, p.spec.Programs[spec.Name], e)
	}
	if strings.HasSuffix(e.Reason, "is not modifiable") {
		return remedy.With(e, "name a function that begins with security_, or one of /sys/kernel/debug/error_injection/list: the kernel lets no others be changed")
	}
	if strings.HasSuffix(e.Reason, "is not sleepable") {
		return remedy.With(e, "take .s off its section, or name another function: this one is called where nothing may sleep")
	}
	if mode := lockdown(); mode != "none" && mode != "" && strings.Contains(e.Reason, "bpf_probe_") {
		return remedy.With(e, "the kernel is locked down (%s): programs cannot write user memory, with confidentiality not read the kernel's; remove the call or boot with lockdown=none", mode)
	}
	return remedy.With(e, "read the verifier's log (detail of the error) and change the program")
}

// hintFrozen names the frozen maps of a program that writes one.
func hintFrozen(p *Plan, spec *ebpf.ProgramSpec, e *VerifierError) error {
	var constant, frozen []string
	for _, name := range usedMaps(spec) {
		planned := p.maps[name]
		switch {
		case planned == nil || planned.class != manifest.ClassFrozen || planned.programWrites:
		case strings.HasPrefix(name, ".rodata"):
			constant = append(constant, name)
		default:
			frozen = append(frozen, name)
		}
	}
	if len(frozen) == 0 {
		return remedy.With(e, "the program writes a constant (%s): declare the variable without const", strings.Join(constant, ", "))
	}
	return remedy.With(e, "the program writes a frozen map (%s): below [maps.%s] write program_writes = true if only programs may, or class = \"mutable\"",
		strings.Join(frozen, " or "), frozen[0])
}

// explainUnloaded shapes what failed before the kernel saw the program: a
// relocation, a kernel function or an attach target that is not there.
func explainUnloaded(err error) error {
	return remedy.With(fmt.Errorf("load: %w", err), "this kernel lacks what the program asks for: see what is named, and /sys/kernel/btf/vmlinux")
}

// withoutName takes the library's "program NAME: " off an error.
func withoutName(err error, spec *ebpf.ProgramSpec) error {
	if inner := errors.Unwrap(err); inner != nil && strings.HasPrefix(err.Error(), "program "+spec.Name+": ") {
		return inner
	}
	return err
}

// lastWords returns the message at the end of a log without a walk: its last
// line, and the one before where that one only says which register it is about.
func lastWords(log []string) string {
	var said []string
	for _, line := range log {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "processed ") || strings.HasPrefix(line, "verification time ") ||
			strings.HasPrefix(line, "stack depth ") || strings.HasPrefix(line, "(the walk ") ||
			strings.HasPrefix(line, "subprog ") && strings.Contains(line, " insns_self ") { // Linux 7.3
			continue
		}
		said = append(said, line)
	}
	n := len(said)
	switch {
	case n == 0:
		return "no reason given"
	case n > 1 && strings.HasPrefix(said[n-1], "R") && len(said[n-1]) > 1 && unicode.IsDigit(rune(said[n-1][1])):
		return said[n-2] + ": " + said[n-1]
	}
	return said[n-1]
}

// lastSource returns the source line the walk was at when it ended. The
// verifier quotes it as "; text @ file.c:12", before Linux 6.9 without the
// place.
func lastSource(log []string) string {
	for _, line := range slices.Backward(log) {
		text, ok := strings.CutPrefix(strings.TrimSpace(line), "; ")
		if !ok {
			continue
		}
		if i := strings.LastIndex(text, " @ "); i >= 0 {
			return strings.TrimSuffix(text[i+3:]+": "+strings.TrimSpace(text[:i]), ": ")
		}
		return text
	}
	return ""
}

// clean takes control characters out of text, all but newlines, and cuts it at
// most bytes where most is not 0.
func clean(s string, most int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' && most == 0:
			return r
		case r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return '\uFFFD'
		}
		return r
	}, s)
	if most > 0 && len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// keepEnd cuts s to its last most bytes, at a line.
func keepEnd(s string, most int) string {
	if len(s) <= most {
		return s
	}
	s = s[len(s)-most:]
	_, s, _ = strings.Cut(s, "\n")
	return "(the beginning is left out)\n" + s
}
