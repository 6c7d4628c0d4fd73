package manifest

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/hornetd/hornetd/internal/remedy"
)

const (
	extension     = ".toml"
	dropInsSuffix = ".d" // of the directory, behind the manifest's name
)

var (
	validName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	order     = regexp.MustCompile(`^[0-9]{2}-`)
)

// reserved begin names that package pinning gives out itself.
var reserved = []string{"stage-", "quarantine-"}

// NameOf returns the name of the collection whose manifest file is: the file's
// name without .toml and without a leading NN-, which only orders. That of a
// template ends with @. The error is
// an *Error.
func NameOf(file string) (string, error) {
	name, err := nameOf(filepath.Base(file))
	if err != nil {
		return "", refuseFile(file, remedy.Of(err), err)
	}
	return name, nil
}

// nameOf is NameOf for a file's name without directories.
func nameOf(base string) (string, error) {
	name, ok := strings.CutSuffix(base, extension)
	if !ok {
		return "", remedy.With(errors.New("a manifest's name ends with .toml"), "name it NAME.toml")
	}
	name = order.ReplaceAllString(name, "")
	template, instance, isTemplate := SplitInstance(name)
	switch {
	case !isTemplate:
		return name, ValidName(name)
	case instance != "":
		return "", remedy.With(errInstanceFile, "name the file %.70s.toml and load %.140s, or write a manifest without @", template, name)
	}
	return name, validTemplate(name)
}

// CheckSigned says why m must not count as signed though its signature is good,
// or nil: a signature covers the text, and not the file's name.
func (m Manifest) CheckSigned() error {
	if m.Named {
		return nil
	}
	return remedy.With(m.Errorf("name", "is missing, and a signed manifest must have it: under another file name it would be another collection"),
		"have it filled in and signed: hornetctl sign --key KEY --cert CERT %s", m.File)
}

// ValidName says what is wrong with the name of a collection, or nil.
func ValidName(name string) error {
	if !validName.MatchString(name) {
		return remedy.With(fmt.Errorf("%.80q is not a name for a collection", name),
			"use a small letter, then at most 62 small letters, digits, - and _; a file's order is exactly two digits and a -")
	}
	for _, prefix := range reserved {
		if strings.HasPrefix(name, prefix) {
			return remedy.With(fmt.Errorf("%q begins with %s, which hornetd uses itself", name, prefix), "choose another name")
		}
	}
	return nil
}

// refuseFile is an error about a whole file.
func refuseFile(file, hint string, err error) error {
	return remedy.With(&Error{File: file, Err: err}, "%s", hint)
}
