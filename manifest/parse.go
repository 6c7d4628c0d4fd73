package manifest

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/tomlfile"
)

// MaxSize is how many bytes a manifest may have.
const MaxSize = tomlfile.MaxSize

// Error is a refused manifest: file, line, key and reason, with a remedy.
type Error = tomlfile.Error

// Parse reads the manifest that file holds and checks all of it that can be
// checked without the object and the kernel. file gives the collection its name
// and relative paths their directory; nothing is opened.
//
// The error is an *Error for the first thing in the file that is wrong.
func Parse(file string, b []byte) (Manifest, error) { return parse(file, b, "", unowned) }

// parse is Parse for an instance, "" where it is not one of a template, and where
// the file's name may be what fits says.
func parse(file string, b []byte, instance string, fits func(name string) error) (Manifest, error) {
	name, err := NameOf(file)
	if err != nil {
		return Manifest{}, err
	}
	if _, _, isTemplate := SplitInstance(name); isTemplate {
		name += instance
	}
	if err := fits(name); err != nil {
		return Manifest{}, refuseFile(file, remedy.Of(err), err)
	}
	file, err = filepath.Abs(file)
	if err != nil {
		return Manifest{}, err
	}
	var raw rawManifest
	text, err := tomlfile.Decode(file, b, &raw)
	if err != nil {
		return Manifest{}, err
	}
	sum := sha256.Sum256(b)
	return check(Manifest{Name: name, File: file, Digest: sum, TextDigest: sum, raw: raw, texts: []*tomlfile.Text{text}})
}

// check fills in what m's raw file says, or tells what is wrong with it.
func check(m Manifest) (Manifest, error) {
	c := checker{tomlfile.ProblemsOf(m.at), m.at, filepath.Dir(m.File)}
	var raw rawManifest
	m.Instances, raw = c.instance(m, m.raw)
	m.Named = c.named(raw.Name, Said(m.Name))
	m.Description = c.description(raw.Description)
	m.Version = raw.Version
	m.Start = c.start(raw.Start)
	if m.Instances != "" {
		m.Start = StartRequest
	}
	m.Fail = c.fail(raw.Fail)
	m.Requires = c.others("requires", m.Name, raw.Requires)
	m.After = c.others("after", m.Name, raw.After)
	m.Object = c.object(raw.Object)
	m.Variables = c.variables(raw.Variables)
	m.Maps = c.maps(raw.Maps)
	m.Attach = c.attachAll(raw.Attach)
	m.Allow = c.allowAll(raw.Allow)
	m.Limits = c.limits(raw.Limits)
	m.Tests = c.tests(raw.Test)
	m.Health = c.health(raw.Health)
	c.ofCaller(&m, raw.Start)
	if err := c.First(); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// Source returns the text that Parse was given: what a signature of the
// manifest is over.
func (m Manifest) Source() string { return m.texts[0].String() }

// Line returns the line of that text on which key stands, counted from 1, and
// whether it stands there itself or only something around it.
func (m Manifest) Line(key string) (line int, exact bool) { return m.texts[0].Line(key) }

// Signature returns the file that a signature of the manifest itself is in.
func (m Manifest) Signature() string { return m.File + ".p7s" }

// Errorf returns an *Error for key ("attach[0].interface", "maps.hits.class")
// with the file and the line it stands on, or else those of the nearest key
// around it.
func (m Manifest) Errorf(key, format string, args ...any) error {
	if len(m.texts) == 0 {
		return &Error{File: m.File, Key: key, Err: fmt.Errorf(format, args...)}
	}
	return m.at(key).Errorf(key, format, args...)
}

// The file as it is written. Pointers tell an absent key from one that says 0.
type rawManifest struct {
	Name        *string           `toml:"name"`
	Description string            `toml:"description"`
	Version     uint64            `toml:"version"`
	Instances   *string           `toml:"instances"`
	Start       string            `toml:"start"`
	Fail        string            `toml:"fail"`
	Requires    []string          `toml:"requires"`
	After       []string          `toml:"after"`
	Object      rawObject         `toml:"object"`
	Variables   map[string]any    `toml:"variables"`
	Maps        map[string]rawMap `toml:"maps"`
	Attach      []rawAttach       `toml:"attach"`
	Allow       []rawAllow        `toml:"allow"`
	Limits      rawLimits         `toml:"limits"`
	Test        []rawTest         `toml:"test,one"`
	Health      *rawHealth        `toml:"health"`
}

type rawObject struct {
	Path      string    `toml:"path"`
	Signature string    `toml:"signature"`
	Signers   *[]string `toml:"signers"`
	SHA256    string    `toml:"sha256"`
}

type rawMap struct {
	Class         string     `toml:"class"`
	Entries       []rawEntry `toml:"entries"`
	ProgramWrites *bool      `toml:"program_writes"`
	Keep          *bool      `toml:"keep"`
	Shared        string     `toml:"shared"`
	MaxEntries    *uint32    `toml:"max_entries"`
	Inner         string     `toml:"inner"`
}

type rawEntry struct {
	Key   any `toml:"key"`
	Value any `toml:"value"`
}

// rawAttach has the fields of Attach, so that it converts to one.
type rawAttach struct {
	Program    string   `toml:"program"`
	Interface  string   `toml:"interface"`
	Mode       string   `toml:"mode"`
	Direction  string   `toml:"direction"`
	Position   string   `toml:"position"`
	Netns      string   `toml:"netns"`
	Cgroup     string   `toml:"cgroup"`
	Tracepoint string   `toml:"tracepoint"`
	Executable string   `toml:"executable"`
	Symbol     string   `toml:"symbol"`
	Symbols    []string `toml:"symbols"`
	Offset     uint64   `toml:"offset"`
	Function   string   `toml:"function"`
	Functions  []string `toml:"functions"`
	Replaces   string   `toml:"replaces"`
	Family     string   `toml:"family"`
	Hook       string   `toml:"hook"`
	Priority   int32    `toml:"priority"`
	Priorities []int32  `toml:"priorities"`
	Defrag     bool     `toml:"defrag"`
	Map        string   `toml:"map"`
	Target     string   `toml:"target"`
	Upgrade    Upgrade  `toml:"upgrade"`
}

type rawAllow struct {
	User  string   `toml:"user"`
	Group string   `toml:"group"`
	Unit  string   `toml:"unit"`
	May   []string `toml:"may"`
}

type rawLimits struct {
	Memory   *tomlfile.Size `toml:"memory"`
	Maps     *uint16        `toml:"maps"`
	Programs *uint16        `toml:"programs"`
}

type rawTest struct {
	Program string `toml:"program"`
	Data    string `toml:"data"`
	Returns any    `toml:"returns"`
}
