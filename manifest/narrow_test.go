package manifest_test

import (
	"errors"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/policy"
)

// FuzzDropIn: what an unsigned drop-in that is accepted makes of a signed
// manifest asks for nothing that was not signed. That is said here in what it
// comes to: programs at places, in an order; verbs that subjects may; numbers.
func FuzzDropIn(f *testing.F) {
	const signed = "version = 1\nobject.path = 'x.o'\n"
	const three = signed + "[[attach]]\nprogram = 'a'\ninterface = 'eth*'\n[[attach]]\nprogram = 'b'\nfunctions = ['f', 'g*']\n[[attach]]\nprogram = 'a'\ninterface = 'lo'\n"
	const rights = signed + "[[allow]]\nuser = '7'\nmay = ['read:*', 'load']\n[[allow]]\ngroup = '8'\nmay = ['read:m', 'status']\n"
	for _, seed := range []struct{ manifest, dropIn string }{
		{three, "attach = []"},
		{three, "[[attach]]\nprogram = 'a'\ninterface = 'lo'"},
		{three, "[[attach]]\nprogram = 'a'\ninterface = 'eth0'\n[[attach]]\nprogram = 'a'\ninterface = 'eth1'"},
		{three, "[[attach]]\nprogram = 'a'\ninterface = 'lo'\n[[attach]]\nprogram = 'a'\ninterface = 'eth*'"},
		{three, "[[attach]]\nprogram = 'b'\nfunctions = ['g*']\n[[attach]]\nprogram = 'b'\nfunctions = ['f']"},
		{three, "[[attach]]\nprogram = 'b'\nfunctions = ['f']\n[[attach]]\nprogram = 'b'\nfunctions = ['f', 'g*']"},
		{three, "[[attach]]\nprogram = 'b'"},
		{rights, "allow = []"},
		{rights, "[[allow]]\nuser = '7'\nmay = ['read:m']\n[[allow]]\nuser = '7'\nmay = ['load']"},
		{rights, "[[allow]]\nuser = '8'\nmay = ['read:m']"},
		{rights, "[[allow]]\ngroup = '8'\nmay = ['read:*']"},
		{rights, "[[allow]]\nuser = '7'\nmay = ['unload']"},
		{rights, "[[allow]]\nuser = '7'\nunit = 'a.service'\nmay = ['load']"},
		{signed + "[[allow]]\nuser = '7'\nunit = 'a.service'\nmay = ['load']", "[[allow]]\nuser = '7'\nmay = ['load']"},
		{signed + "[[allow]]\nunit = 'a.service'\nmay = ['load']", "[[allow]]\nunit = 'a.service'\nuser = '7'\nmay = ['load']"},
		{signed + "[[allow]]\nuser = '7'\nmay = ['rw-fd:*']", "[[allow]]\nuser = '7'\nmay = ['fd:m', 'rw-fd:n']"},
		{signed + "[[allow]]\nuser = '7'\nmay = ['fd:*', 'write:m']", "[[allow]]\nuser = '7'\nmay = ['rw-fd:m']"},
		{signed + "[limits]\nmaps = 3", "[limits]\nmaps = 2\nmemory = 1"},
		{signed + "[limits]\nmaps = 3", "[limits]\nmaps = 4"},
		{signed + "[variables]\na = 1", "[variables]\na = 2"},
		{signed + "[maps.m]\nclass = 'mutable'", "[maps.m]\nkeep = true"},
		{signed + "[maps.m]\nclass = 'mutable'", "[maps.n]\nclass = 'mutable'"},
		{signed + "start = 'request'", "start = 'boot'"},
		{signed + "fail = 'closed'", "fail = 'open'"},
		{signed, "object.path = 'y.o'\nversion = 1"},
		{signed + "[test]\nprogram = 'a'\nreturns = 0", "test = []"},
		{signed, "version = 2\nname = 'y'"},
		{signed, "description = 'x'\n[[attach]]\nprogram = 'p'"},
	} {
		f.Add([]byte(seed.manifest), []byte(seed.dropIn))
	}
	f.Fuzz(func(t *testing.T, text, dropIn []byte) {
		before, err := manifest.Parse("/m/x.toml", text)
		if err != nil {
			return
		}
		d, err := manifest.ParseDropIn("/m/x.toml.d/1.toml", dropIn)
		if err != nil {
			refused(t, err)
			return
		}
		after, err := manifest.Apply(before, d)
		if err != nil {
			refused(t, err)
			return
		}
		if after.Name != before.Name || after.Version != before.Version || after.TextDigest != before.Digest {
			t.Fatalf("%q, version %d", after.Name, after.Version)
		}
		d = after.DropIns[0]
		if d.Alters == nil && !reflect.DeepEqual(after.Object, before.Object) {
			t.Fatalf("object %+v, was %+v", after.Object, before.Object)
		}
		if d.Widens != nil {
			refused(t, d.Widens)
			return
		}
		asksForNoMore(t, before, after)
	})
}

func refused(t *testing.T, err error) {
	t.Helper()
	var e *manifest.Error
	if !errors.As(err, &e) || remedy.Of(err) == "" || strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Fatalf("%q: not an *Error on a line with a remedy", err)
	}
}

func asksForNoMore(t *testing.T, before, after manifest.Manifest) {
	t.Helper()
	for _, same := range [][2]any{
		{before.Object, after.Object}, {before.Variables, after.Variables}, {before.Maps, after.Maps},
		{before.Tests, after.Tests}, {before.Requires, after.Requires}, {before.After, after.After}, {before.Fail, after.Fail}, {before.Description, after.Description},
	} {
		if diff := cmp.Diff(same[0], same[1], cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-was +is):\n%s", diff)
		}
	}
	if before.Start == manifest.StartRequest && after.Start != before.Start {
		t.Fatalf("starts at %s", after.Start)
	}
	// Each place of a program is one that it was to have, and as often.
	is, was := places(after), places(before)
	for place, n := range is {
		if n > was[place] {
			t.Fatalf("%d times at %q, was %d", n, place, was[place])
		}
	}
	for _, l := range [][2]uint64{
		{before.Limits.Memory, after.Limits.Memory}, {uint64(before.Limits.Maps), uint64(after.Limits.Maps)}, {uint64(before.Limits.Programs), uint64(after.Limits.Programs)},
	} {
		const most = 1 << 63 // the policy's
		for i, n := range l {
			if n == 0 {
				l[i] = most
			}
		}
		if l[1] > l[0] {
			t.Fatalf("limit %d, was %d", l[1], l[0])
		}
	}
	// Whoever may do something now might before.
	p := policy.New(policy.Limits{}, nil)
	verbs := []policy.Verb{policy.Status, policy.Load, policy.Unload, policy.Events, policy.Read("m"), policy.Read("other"),
		policy.Write("m"), policy.FD("m"), policy.RWFD("m"), policy.RWFD("other")}
	for _, a := range after.Allow {
		for _, right := range a.May {
			if name, ok := right.Map(); ok && name != "*" {
				verbs = append(verbs, policy.Read(name), policy.Write(name), policy.FD(name), policy.RWFD(name))
			}
		}
	}
	for id := uint32(1); id < 12; id++ {
		for _, s := range []policy.Subject{{UID: id, GID: 99}, {UID: 99, GID: id}, {UID: 99, GID: 98, Groups: []uint32{id}}} {
			for _, v := range verbs {
				for _, s.Unit = range []string{"", "a.service", "b.service"} {
					_, now := p.Authorize(s, v, after)
					if _, then := p.Authorize(s, v, before); now == nil && then != nil {
						t.Fatalf("%+v may %s", s, v)
					}
				}
			}
		}
	}
}

// places counts at what a manifest has its programs attached, for hosts with
// some interfaces and functions. With one kind of program order matters.
func places(m manifest.Manifest) map[string]int {
	all := map[string]int{}
	for _, a := range m.Attach {
		interfaces := matching([]string{"eth0", "eth1", "lo", "wlan0", "e"}, []string{a.Interface})
		functions := matching([]string{"f", "g", "ga", "gb", "h"}, append(slices.Clone(a.Functions), a.Symbols...))
		a.Interface, a.Functions, a.Symbols = "", nil, nil
		for _, i := range interfaces {
			for _, fn := range functions {
				all[strings.Join([]string{a.Program, i, fn, a.Mode, a.Direction, a.Position, a.Netns, a.Cgroup, a.Tracepoint, a.Executable, a.Symbol,
					a.Function, a.Replaces, a.Family, a.Hook, a.Map, string(rune(a.Priority)), string(rune(a.Offset))}, "|")]++
			}
		}
	}
	return all
}

// matching is what of names, and of the patterns that are none, is meant. Without
// a pattern it is what the program's section says.
func matching(names, patterns []string) []string {
	var all []string
	for _, p := range patterns {
		if !strings.ContainsAny(p, `*?[\`) {
			all = append(all, p)
			continue
		}
		for _, n := range names {
			if ok, err := path.Match(p, n); ok && err == nil {
				all = append(all, n)
			}
		}
	}
	if len(patterns) == 0 {
		all = []string{"section"}
	}
	return all
}
