package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hornetd/hornetd/internal/vmtest"
)

// try is a mutant with its object and its tests.
type try struct {
	mutant
	object string
	tests
}

// tests are those that are to notice a change of a function.
type tests struct {
	run   string // as for -run
	acts  string // regular expression of those of the deny matrix that are about it; "" is all
	guest string // "" is that of -kernel, withKey one that verifies signatures, and others are kernels
}

// plans say which tests are asked about which function; the first that matches counts.
var plans = []struct{ functions, run, acts string }{
	{"^(mark_of|protected|hornetd|maker|makes_maps|within|note|pins)$", "TestDenyMatrix|TestMakesMaps|TestMadeIsOwned|TestForkedChild|TestWhoIsHornetd|TestNoMemory", ""},
	{"^(identify|current_exe|current_place|may_signal)$", "TestAllow|TestEvents|TestWhoIsHornetd|TestReusedInode", ""},
	{"^(serial|note_namespace)$", "TestNamespaceOfHornetd", ""},
	{"^(bit|permits|listed)$", "TestAllow|TestListedForOwned|TestListedToAttach|TestDenyMatrix", ""},
	{"^(budget|fill|tell|describe)$", "TestEvents|TestEventsAreBounded|TestDeeds|TestListedForOwned", ""},
	{"^(enforcing|refuse)$", "TestDenyMatrix|TestDeadMan|TestEvents", ""},
	{"^(is_owned|own|is_owned_so|use|guard_map|guard_prog)$", "TestDenyMatrix|TestMadeIsOwned|TestProgramsOfOwnedMaps|TestShare|TestMakesMaps|TestAllow|TestDeeds", ""},
	{"^(file_of|same|object_of|class|touches|at_floor|judge|call|guard_bpf|guard_bpf_old)$", "TestDenyMatrix|TestListedForOwned|TestShare|TestAllow|TestDeeds|TestNoMemory", ""},
	{"^(floor|guard_floor|guard_floor_old|guard_floor_open)$", "TestFloor|TestEvents|TestTellsOnce", ""},
	{"^guard_token$", "TestToken", ""},
	{"^(guard_ioctl_compat)$", "TestCompatIoctl", ""},
	{"^(ioctl|guard_ioctl|guard_setsockopt|attribute|word|kind|message|guard_netlink)$", "TestDenyMatrix|TestListedToAttach|TestDeeds", "netlink|XDP|tun|SO_|IOC|filter|interface"},
	{"^(harms|guard_kill|guard_sigio|guard_ptrace)$", "TestDenyMatrix|TestForkedChild|TestAllow|TestDeeds|TestSignalsOfFiles|TestSiblingSignals", "SIG|signal|ptrace|process_vm|pidfd|PID"},
	{"^(is_hornetds|enrolled|started_by_init|guard_exec|administers|filter|answered)$", "TestWhoIsHornetd|TestWhoIsAnswered|TestMakesMaps|TestNamespaceOfHornetd", ""},
	{"^(make|is_made|made|guard_make_map|guard_make_prog|guard_make_map_old|guard_make_prog_old|guard_spawn)$", "TestMadeIsOwned|TestMadeIsNobodys|TestGivenUp|TestSpawn|TestMakesMaps|TestShare|TestProgramsOfOwnedMaps", ""},
	{"^(guard_free|written)$", "TestExecutableGone|TestWhoIsHornetd|TestReusedInode|TestListedByDigest", ""},
	{"^(is_called|switches|probe|is_uprobe|look_at|scan|guard_perf|guard_perf_old|guard_open)$", "TestDenyMatrix|TestDeeds|TestListedToAttach", "perf|uprobe|ftrace|binary"},
	{"^(control|guard_control)$", "TestWhoIsHornetd|TestDeadMan|TestShare|TestNamespaceOfHornetd|TestOthersOnlyLook|TestListedByDigest|TestDenyMatrix", ""},
	{"^(guarded_device|guarded_root|guarded|pin|binary|setattr|guard_(link|create|mkdir|symlink|setattr|setattr_old))$", "TestDenyMatrix|TestDeeds", "pin|another bpffs|binary|mount"},
	{"^(remove|mount_point|guard_(unlink|rmdir|rename))$", "TestDenyMatrix|TestDeeds|TestMountsElsewhere", "pin|mount"},
	{"", "TestDenyMatrix|TestTreeOfMounts|TestNamespaceOfHornetd|TestDeeds|TestMountsElsewhere|TestMountsOfTheFirstProcess", "mount|private"}, // mounts
}

// signatures are the functions about what the kernel has verified.
var signatures = regexp.MustCompile("^(verified|verified_fd|vouched|load|guard_load|guard_floor_load)$")

// old are those for kernels before the oldest that has the others.
var old = regexp.MustCompile("_old$")

// withKey is a guest whose kernel has a key of the firmware's.
const withKey = "7.3 UEFI"

func plan(function string) tests {
	if signatures.MatchString(function) {
		return tests{"^TestVerified$", "", withKey}
	}
	guest := ""
	if old.MatchString(function) {
		guest = "6.1"
	}
	for _, p := range plans {
		if regexp.MustCompile(p.functions).MatchString(function) {
			return tests{"^(" + p.run + ")$", p.acts, guest}
		}
	}
	panic("no plan for " + function)
}

const (
	objectDir = "/vm/mutants" // in a guest
	leftOver  = 99            // exit status: the guard of an earlier one is in force, or has let something be done
	perGuest  = 20            // mutants, of which one may take the guest along
	perMutant = 5 * time.Minute
	asItIs    = time.Hour // all tests that are asked about any
)

// try tries all in guests, and tells of each.
func (o *options) try(ctx context.Context, work string, all []try, tell func(try, verdict, string)) error {
	build := vmtest.Tests{Packages: []string{"./lsm-module"}, Flags: []string{"-test.v", "-test.failfast"}, Timeout: perMutant}
	bin := filepath.Join(work, "bin")
	if err := errors.Join(os.Mkdir(bin, 0o755), build.Build(bin)); err != nil {
		return err
	}
	for _, guest := range []string{"", "6.1", withKey} {
		rest := o.ofGuest(all, guest)
		for len(rest) > 0 {
			some := rest[:min(len(rest), perGuest)]
			g, err := o.guest(&build, bin, work, some, guest)
			if err != nil {
				return err
			}
			left, err := o.boot(ctx, g, some, tell)
			if err != nil {
				return err
			}
			rest = append(left, rest[len(some):]...)
		}
	}
	return nil
}

// ofGuest returns what is tried in one kind of guest: first the guard as it is, with
// every test that is asked, of which none may notice anything.
func (o *options) ofGuest(all []try, guest string) []try {
	var list []try
	var run []string
	for _, t := range all {
		if t.guest != guest {
			continue
		}
		list = append(list, t)
		if !slices.Contains(run, t.run) {
			run = append(run, t.run)
		}
	}
	if list == nil || o.trust {
		return list
	}
	return append([]try{{mutant{what: "as it is"}, unchanged, tests{strings.Join(run, "|"), "", guest}}}, list...)
}

// guest returns one that tries some, one after the other.
func (o *options) guest(build *vmtest.Tests, bin, work string, some []try, guest string) (*vmtest.Guest, error) {
	kernel, _, uefi := strings.Cut(cmp.Or(guest, o.kernel), " ")
	k, err := vmtest.Find(kernel)
	if err != nil {
		return nil, err
	}
	module, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	g, err := build.Guest(k, bin, module)
	if err != nil {
		return nil, err
	}
	// With one processor the kernel has least to wait for where it changes its code. What
	// asks who comes first is answered by two.
	g.UEFI, g.CPUs = uefi, 1
	if slices.ContainsFunc(some, func(t try) bool { return strings.Contains(t.run, "TestMadeIsNobodys") }) {
		g.CPUs = 2
	}
	g.Files[objectDir] = filepath.Join(work, objects)
	g.Timeout = asItIs + time.Duration(len(some)+1)*perMutant
	tests := g.Commands[0]
	keep := tests
	keep.Name, keep.Args = "what stays attached", []string{tests.Args[0], "/sys/fs/bpf/keep"}
	keep.Env = append(slices.Clip(tests.Env), "LSM_TEST_CHILD=keeps")
	g.Commands = []vmtest.Command{keep}
	for _, t := range some {
		c := tests
		c.Name = fmt.Sprintf("%d: %s", t.line, t.what)
		if t.object == unchanged {
			c.Timeout = asItIs
		}
		c.Args = append(slices.Clip(tests.Args), "-test.run="+t.run, fmt.Sprint("-test.timeout=", c.Timeout-5*time.Second))
		c.Env = append(slices.Clip(tests.Env), "LSM_TEST_OBJECT="+objectDir+"/"+t.object, "LSM_TEST_QUICK="+cmp.Or(t.acts, "."))
		if !o.hurry {
			c.Env = append(c.Env, "LSM_TEST_REST=1")
		}
		g.Commands = append(g.Commands, c)
	}
	return g, nil
}

// boot runs the guest, and returns what is still to be tried: what was not for the
// guest's death, or because of what an earlier one has left.
func (o *options) boot(ctx context.Context, g *vmtest.Guest, some []try, tell func(try, verdict, string)) (left []try, err error) {
	said := make([]strings.Builder, len(g.Commands))
	r, err := g.Run(ctx, func(i int, b []byte) {
		if o.verbose && i > 0 && said[i].Len() == 0 { // which come to nothing is told at the guest's end
			fmt.Println(time.Now().Format(time.TimeOnly), failure.FindString(said[i-1].String()))
			fmt.Println(time.Now().Format(time.TimeOnly), g.Commands[i].Name)
		}
		said[i].Write(b)
	})
	var failed *vmtest.ExitError
	if err != nil && !errors.As(err, &failed) && len(r.Exits) < 2 && said[1].Len() == 0 {
		return nil, err
	}
	if len(r.Exits) > 0 && !r.Exits[0].OK() {
		return nil, fmt.Errorf("%w: %s", err, said[0].String())
	}
	for i, t := range some {
		v, why := noticed, "the guest died"
		switch at := i + 1; {
		case at < len(r.Exits):
			v, why = judge(r.Exits[at], said[at].String())
		case at > len(r.Exits) || ctx.Err() != nil:
			v = untried
		}
		switch {
		case v == untried:
			left = append(left, t)
		case t.object != unchanged:
			tell(t, v, why)
		case v != survived:
			return nil, fmt.Errorf("the tests fail as they are: %s: %s: %s", t.run, why, said[i+1].String())
		}
	}
	if len(left) == len(some) {
		return nil, fmt.Errorf("a guest has tried nothing: %s: %w", said[1].String(), errors.Join(err, ctx.Err()))
	}
	return left, ctx.Err()
}

var (
	verifier = regexp.MustCompile(`program guard_\w+: load program: (invalid argument|permission denied|argument list too long|no such file)`)
	failure  = regexp.MustCompile(`--- FAIL: (\S+)`)
	reason   = regexp.MustCompile(`(?m)^ +\w+_test\.go:\d+: .*`)
)

// judge says what came of one from how its tests ended.
func judge(e vmtest.Exit, said string) (verdict, string) {
	switch {
	case e.OK() && !strings.Contains(said, "--- PASS"):
		return untried, said
	case e.OK():
		return survived, "no test"
	case e.Status == leftOver:
		return untried, said
	case verifier.MatchString(said):
		return refused, verifier.FindString(said)
	}
	if m := failure.FindStringSubmatch(said); m != nil {
		return noticed, m[1] + ": " + strings.TrimSpace(reason.FindString(said))
	}
	return noticed, fmt.Sprintf("%s %d", e.How, e.Status)
}
