package manifest

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/hornetd/hornetd/internal/remedy"
)

// A template, NAME@.toml, is loaded as NAME@INSTANCE, once for each instance; in
// what it says, %i stands for that, as in systemd.unit(5).

var validInstance = regexp.MustCompile(`^[A-Za-z0-9_:-]{1,63}$`)

// SplitInstance returns the name of the template and the instance that name is a
// load of. The template's own name is one of an empty instance.
func SplitInstance(name string) (template, instance string, ok bool) {
	before, instance, ok := strings.Cut(name, "@")
	if !ok {
		return name, "", false
	}
	return before + "@", instance, true
}

// Template reports whether m is a template itself, which nothing loads.
func (m Manifest) Template() bool {
	_, instance, ok := SplitInstance(m.Name)
	return ok && instance == ""
}

// validTemplate is ValidName for a name with an @. The instance may be missing.
func validTemplate(name string) error {
	template, instance, _ := SplitInstance(name)
	if err := ValidName(strings.TrimSuffix(template, "@")); err != nil {
		return err
	}
	if instance != "" && !validInstance.MatchString(instance) {
		return remedy.With(fmt.Errorf("%.80q is not an instance", instance), "use at most 63 letters, digits, :, - and _")
	}
	return nil
}

// ValidLoad says what is wrong with the name of something that can run: a
// collection, or an instance of a template.
func ValidLoad(name string) error {
	template, instance, ok := SplitInstance(name)
	switch {
	case !ok:
		return ValidName(name)
	case instance == "":
		return remedy.With(fmt.Errorf("%.80q is a template", name), "name an instance of it, such as %.70seth0", template)
	}
	return validTemplate(name)
}

// instance checks the pattern for instances, and the instance that m is, and returns
// what raw says of that. A template alone is checked with a made-up one.
func (c checker) instance(m Manifest, raw rawManifest) (pattern string, _ rawManifest) {
	const key = "instances"
	_, instance, ok := SplitInstance(m.Name)
	if !ok {
		if raw.Instances != nil {
			c.Add(key, "remove it, or name the file NAME@.toml", "is for templates, and this is none")
		}
		return "", raw
	}
	if raw.Instances == nil {
		c.Add(key, `write instances = "PATTERN", a regular expression such as "eth[0-9]+" that the whole of an instance has to match`, "is missing, and a template must have it")
		return "", raw
	}
	pattern = *raw.Instances
	re, err := regexp.Compile(`^(?:` + pattern + `)$`)
	switch {
	case !c.Printable(key, pattern):
		return "", raw
	case len(pattern) > 200 || err != nil:
		c.Add(key, "write a regular expression (RE2) of at most 200 bytes", "%.80q is not a regular expression of at most 200 bytes", pattern)
		return "", raw
	case raw.Start == string(StartBoot):
		c.Add("start", `write start = "request", or remove it`, "is %q: instances of a template run when they are asked for", StartBoot)
	case instance == "":
		instance = "i"
	case !validInstance.MatchString(instance) || !re.MatchString(instance):
		c.Add(key, "name another instance", "is %.80q, which %q does not match", pattern, instance)
		return pattern, raw
	}
	return pattern, raw.of(instance)
}

// of is raw for an instance.
func (raw rawManifest) of(instance string) rawManifest {
	replace := strings.NewReplacer("%i", instance, "%%", "%").Replace
	raw.Description = replace(raw.Description)
	raw.Attach = slices.Clone(raw.Attach)
	for i := range raw.Attach {
		a := &raw.Attach[i]
		for _, s := range []*string{&a.Interface, &a.Netns, &a.Cgroup, &a.Tracepoint, &a.Executable, &a.Symbol, &a.Function} {
			*s = replace(*s)
		}
		a.Symbols, a.Functions = replaceAll(a.Symbols, replace), replaceAll(a.Functions, replace)
	}
	raw.Variables = maps.Clone(raw.Variables)
	for name, v := range raw.Variables {
		if s, isText := v.(string); isText {
			raw.Variables[name] = replace(s)
		}
	}
	return raw
}

func replaceAll(all []string, replace func(string) string) []string {
	all = slices.Clone(all)
	for i, s := range all {
		all[i] = replace(s)
	}
	return all
}

// errInstanceFile refuses a file for a single instance.
var errInstanceFile = errors.New("is of one instance of a template")
