package manifest

import (
	"fmt"
	"strings"
	"time"
)

// MaxTrial is how long a new version can be on trial.
const MaxTrial = time.Minute

// Health says what must hold for a while after an upgrade, else the version
// before it comes back: one of a map's counter, a variable and a program.
type Health struct {
	For      time.Duration
	Map      string
	Key      any    // of Map; nil: the first of an array
	Field    string // of its value, where that is a struct
	Variable string
	Grows    bool    // the counter is larger at the end than at the beginning
	AtLeast  *uint64 // the counter at the end
	Equals   *uint64 // the counter, all the time
	Run      *Test   // Program and what it returns, all the time
}

type rawHealth struct {
	Seconds  *uint64 `toml:"seconds"`
	Map      string  `toml:"map"`
	Key      any     `toml:"key"`
	Field    string  `toml:"field"`
	Variable string  `toml:"variable"`
	Grows    *bool   `toml:"grows"`
	AtLeast  *uint64 `toml:"at_least"`
	Equals   *uint64 `toml:"equals"`
	Program  string  `toml:"program"`
	Data     string  `toml:"data"`
	Returns  any     `toml:"returns"`
}

func (c checker) health(raw *rawHealth) *Health {
	if raw == nil {
		return nil
	}
	h := &Health{Map: raw.Map, Key: raw.Key, Field: raw.Field, Variable: raw.Variable,
		Grows: raw.Grows != nil && *raw.Grows, AtLeast: raw.AtLeast, Equals: raw.Equals}
	switch {
	case raw.Seconds == nil:
		c.Add("health.seconds", "write how long it must hold, such as seconds = 10", "is missing")
	case *raw.Seconds < 1 || *raw.Seconds > uint64(MaxTrial/time.Second):
		c.Add("health.seconds", "write a number from 1 to 60", "is %d", *raw.Seconds)
	default:
		h.For = time.Duration(*raw.Seconds) * time.Second
	}
	what := given("map", raw.Map != "", "variable", raw.Variable != "", "program", raw.Program != "")
	if len(what) != 1 {
		c.Add("health", `write one of map = "NAME", variable = "NAME" and program = "NAME"`, "is about %s", orNothing(what))
		return h
	}
	condition := given("grows", raw.Grows != nil, "at_least", raw.AtLeast != nil, "equals", raw.Equals != nil)
	if raw.Program != "" {
		stray := append(condition, given("key", raw.Key != nil, "field", raw.Field != "")...)
		if len(stray) > 0 {
			c.Add("health."+stray[0], "remove it: what a program returns is said with returns", "is not about a program")
		}
		c.identifier("health.program", raw.Program)
		h.Run = &Test{Program: raw.Program, Data: c.hex("health.data", raw.Data), Returns: c.returns("health.returns", raw.Returns)}
		return h
	}
	for _, key := range given("data", raw.Data != "", "returns", raw.Returns != nil) {
		c.Add("health."+key, `remove it, or write program = "NAME"`, "is about a program")
	}
	switch {
	case len(condition) != 1:
		c.Add("health", "write one of grows = true, at_least = N and equals = N", "says %s of the counter", orNothing(condition))
	case raw.Grows != nil && !*raw.Grows:
		c.Add("health.grows", "write grows = true, or equals = N for a counter that must not move", "is false")
	}
	if raw.Variable != "" {
		for _, key := range given("key", raw.Key != nil, "field", raw.Field != "") {
			c.Add("health."+key, "remove it: a variable is a counter by itself", "is not about a variable")
		}
		c.identifier("health.variable", raw.Variable)
		return h
	}
	if !mapName.MatchString(raw.Map) {
		c.Add("health.map", "write the map's name as it stands in the C source", "%.80q is not the name of a map", raw.Map)
	}
	if raw.Field != "" {
		c.identifier("health.field", raw.Field)
	}
	return h
}

// given lists the names that are followed by true.
func given(pairs ...any) (names []string) {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1].(bool) {
			names = append(names, pairs[i].(string))
		}
	}
	return names
}

func orNothing(words []string) string {
	if len(words) == 0 {
		return "nothing"
	}
	return strings.Join(words, " and ")
}

// Counter says which counter h is about.
func (h Health) Counter() string {
	switch {
	case h.Variable != "":
		return "variable " + h.Variable
	case h.Field != "":
		return fmt.Sprintf("%s of map %s", h.Field, h.Map)
	}
	return "map " + h.Map
}
