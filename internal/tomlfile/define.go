package tomlfile

// The library lets some definitions through that TOML forbids, and then one of
// two values is lost without a word (a.b.c = 1, then a.b = 2). These are the
// rules, by what has made the thing at a path.
type definition struct {
	kind    kindOfDefinition
	section int // the header below which a dotted table was made
}

type kindOfDefinition int

const (
	asValue  kindOfDefinition = iota + 1 // KEY = …: complete
	asHeader                             // [KEY]: complete but for tables inside
	asSuper                              // KEY in [KEY.x]: may still get its own header
	asDotted                             // KEY in KEY.x = …: may get more below the same header
	asArray                              // [[KEY]]: may get more tables
)

// define notes that the statement being read makes, or goes through, the thing
// at the path.
func (s *scanner) define(kind kindOfDefinition) error {
	old := s.defined[string(s.path)]
	ok := old.kind == 0
	switch kind {
	case asSuper:
		if old.kind != 0 && old.kind != asValue {
			return nil
		}
	case asDotted:
		ok = ok || old.kind == asSuper || old.kind == asDotted && old.section == s.section
	case asHeader:
		ok = ok || old.kind == asSuper
	case asArray:
		ok = ok || old.kind == asArray
	}
	if !ok {
		return s.refuse("write everything about it in one place", "is defined twice")
	}
	s.defined[string(s.path)] = definition{kind, s.section}
	return nil
}

// pretty appends a path as people write it. Inside the scanner a NUL stands before
// every part but the first and a SOH before every index, so that a quoted part
// is never taken for several.
func pretty(to, path []byte) []byte {
	for _, c := range path {
		switch c {
		case 0:
			to = append(to, '.')
		case 1:
		default:
			to = append(to, c)
		}
	}
	return to
}
