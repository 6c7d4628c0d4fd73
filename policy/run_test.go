package policy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/signing"
)

// bundles proves that somebody signed an object alone, or a manifest with it.
type bundles struct {
	t     *testing.T
	files map[string][]byte
	keys  map[string][]byte
}

func newBundles(t *testing.T, signers ...string) *bundles {
	b := &bundles{t, map[string][]byte{}, map[string][]byte{}}
	for _, name := range signers {
		key, cert, err := signing.Keygen(name, "ed25519")
		if err != nil {
			t.Fatal(err)
		}
		b.files[name+".pem"], b.keys[name] = cert, key
	}
	return b
}

func (b *bundles) signed(by string, manifestToo bool) signing.Verified {
	b.t.Helper()
	trust, err1 := signing.ParseTrust(b.files)
	key, err2 := signing.ParseKey(b.keys[by])
	cert, err3 := signing.ParseCertificate(b.files[by+".pem"])
	object := []byte("\x7fELF, or what is taken for one")
	bundle := signing.Bundle{Object: object, ObjectFile: "x.o", Manifest: []byte("name = 'm'"), ManifestFile: "m.toml"}
	sum := sha256.Sum256(object)
	var err4, err5 error
	if manifestToo {
		bundle.SHA256 = &sum
		bundle.ManifestSignature, err4 = signing.Sign(bundle.Manifest, key, cert)
	} else {
		bundle.Signature, err4 = signing.Sign(object, key, cert)
	}
	v, err5 := trust.Verify(bundle, nil, time.Now())
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		b.t.Fatal(err)
	}
	return v
}

func TestRun(t *testing.T) {
	signers := newBundles(t, "dev", "ops")
	whole, object, ops := signers.signed("dev", true), signers.signed("dev", false), signers.signed("ops", true)
	if whole.Covers() != signing.CoversManifest || object.Covers() == signing.CoversManifest {
		t.Fatal("covers", whole.Covers(), object.Covers())
	}
	spec := func(maps int, sections ...string) *ebpf.CollectionSpec {
		s := objectOf(map[string]*ebpf.MapSpec{})
		for i := range maps {
			s.Maps[fmt.Sprint("m", i)] = hash(8, 8, 64)
		}
		for i, section := range sections {
			s.Programs[fmt.Sprint("p", i)] = &ebpf.ProgramSpec{SectionName: section}
		}
		return s
	}
	m := func(attach ...manifest.Attach) manifest.Manifest {
		return manifest.Manifest{Name: "m", Digest: [32]byte{7}, Attach: attach}
	}
	eth := m(manifest.Attach{Program: "p0", Interface: "eth0"})
	fits := Bundle{eth, spec(1, "xdp"), whole, 0}
	ada := Rule{Who: Who{User: "ada"}, Signers: []string{"dev"}, Attach: []string{"xdp", "cgroup/*"}, Targets: []string{"interface:eth*", "cgroup:/sys/fs/cgroup/a/**"}, Collections: 2}
	with := func(change func(*Rule)) []Rule {
		r := ada
		change(&r)
		return []Rule{r}
	}
	sharing := fits
	sharing.Verified, sharing.Manifest.Maps = object, map[string]manifest.Map{"m0": {Shared: "x"}}
	tests := []struct {
		name  string
		uid   uint32
		rules []Rule
		b     Bundle
		err   string // "" where it may
		hint  string
		is    error
	}{
		{"fits", 1000, []Rule{ada}, fits, "", "", nil},
		{"root", 0, nil, fits, "", "", nil},
		{"no rule", 1000, nil, fits, `run: uid 1000 may not run bundles of its own: permission denied`, `[[rule]] with user = "1000" and may = ["run"]`, ErrDenied},
		{"a rule about another", 1001, []Rule{ada}, fits, `run: uid 1001 may not run`, "[[rule]]", ErrDenied},

		{"another signer", 1000, []Rule{ada}, Bundle{eth, spec(1, "xdp"), ops, 0},
			`collection "m": uid 1000 may not run it, says hornetd.toml: rule[0]: signer "ops" is none of its signers: permission denied`, `add "ops" to signers`, ErrDenied},
		{"any signer", 1000, with(func(r *Rule) { r.Signers = []string{"*"} }), Bundle{eth, spec(1, "xdp"), ops, 0}, "", "", nil},
		{"no signers", 1000, with(func(r *Rule) { r.Signers = nil }), fits, `signer "dev" is none of its signers`, "", ErrDenied},
		{"nobody signed", 1000, with(func(r *Rule) { r.Signers, r.Unsigned = []string{"*"}, true }), Bundle{eth, spec(1, "xdp"), signing.Verified{}, 0}, `nobody signed it`, "hornetctl sign", ErrDenied},
		{"only the object is signed", 1000, []Rule{ada}, Bundle{eth, spec(1, "xdp"), object, 0}, `the manifest is not signed, only its object`, "FILE.toml", ErrDenied},
		{"only the object needs to be", 1000, with(func(r *Rule) { r.Unsigned = true }), Bundle{eth, spec(1, "xdp"), object, 0}, "", "", nil},
		{"an unsigned manifest takes no map of others", 1000, with(func(r *Rule) { r.Unsigned = true }), sharing, `map "m0" is shared, which only a signed manifest can say`, "remove maps.m0.shared", ErrDenied},

		{"a section", 1000, []Rule{ada}, Bundle{eth, spec(1, "xdp", "kprobe/x"), whole, 0}, `program "p1" of section "kprobe/x" is not in its attach`, `add "kprobe/x" to attach`, ErrDenied},
		{"no sections", 1000, with(func(r *Rule) { r.Attach = nil }), fits, `section "xdp" is not in its attach`, "", ErrDenied},
		{"a key of the manifest makes another section", 1000, with(func(r *Rule) { r.Attach, r.Targets = []string{"lsm/file_open"}, []string{"host"} }),
			Bundle{m(manifest.Attach{Program: "p0", Function: "bprm_check_security"}), spec(0, "lsm/file_open"), whole, 0}, `section "lsm/bprm_check_security" is not in its attach`, "", ErrDenied},

		{"an interface", 1000, []Rule{ada}, Bundle{m(manifest.Attach{Program: "p0", Interface: "wlan0"}), spec(1, "xdp"), whole, 0}, `attach[0]: "interface:wlan0" is not in its targets`, `add "interface:wlan0" to targets`, ErrDenied},
		{"interfaces", 1000, []Rule{ada}, Bundle{m(manifest.Attach{Program: "p0", Interface: "*"}), spec(1, "xdp"), whole, 0}, `"interface:*" is not in its targets`, "", ErrDenied},
		{"fewer interfaces", 1000, []Rule{ada}, Bundle{m(manifest.Attach{Program: "p0", Interface: "eth1*"}), spec(1, "xdp"), whole, 0}, "", "", nil},
		{"an interface elsewhere", 1000, []Rule{ada}, Bundle{m(manifest.Attach{Program: "p0", Interface: "eth0", Netns: "/run/netns/x"}), spec(1, "xdp"), whole, 0}, `"netns:/run/netns/x" is not in its targets`, "", ErrDenied},
		{"the second attachment", 1000, []Rule{ada}, Bundle{m(eth.Attach[0], manifest.Attach{Program: "p1", Cgroup: "/sys/fs/cgroup/b"}), spec(1, "xdp", "cgroup/connect4"), whole, 0}, `attach[1]: "cgroup:/sys/fs/cgroup/b" is not`, "", ErrDenied},
		{"no target", 1000, []Rule{ada}, Bundle{m(manifest.Attach{Program: "p0"}), spec(1, "xdp"), whole, 0}, `attach[0]: "host" is not in its targets`, "", ErrDenied},
		{"the caller's own", 1000, []Rule{ada}, Bundle{m(manifest.Attach{Program: "p0", Interface: "eth0", Target: manifest.TargetCaller}), spec(1, "xdp"), whole, 0}, `attach[0]: "caller" is not in its targets`, `add "caller" to targets`, ErrDenied},
		{"the caller's own, allowed", 1000, with(func(r *Rule) { r.Targets = []string{"caller"} }), Bundle{m(manifest.Attach{Program: "p0", Interface: "wlan0", Target: manifest.TargetCaller}), spec(1, "xdp"), whole, 0}, "", "", nil},
		{"no targets", 1000, with(func(r *Rule) { r.Targets = nil }), fits, `"interface:eth0" is not in its targets`, "", ErrDenied},

		{"collections", 1000, []Rule{ada}, Bundle{eth, spec(1, "xdp"), whole, 1}, "", "", nil},
		{"a collection too many", 1000, []Rule{ada}, Bundle{eth, spec(1, "xdp"), whole, 2}, `the user runs 2 already, of 2: limit exceeded`, "end one first", ErrLimit},
		{"the rule's limits", 1000, with(func(r *Rule) { r.Limits.Maps = 1 }), Bundle{eth, spec(2, "xdp"), whole, 0}, `the object needs 2 maps, more than 1: limit exceeded`, "limits of the rule", ErrLimit},
		{"the policy's limits", 1000, with(func(r *Rule) { r.Limits.Maps = 100 }), Bundle{eth, spec(5, "xdp"), whole, 0}, `the object needs 5 maps, more than 4`, "", ErrLimit},
		{"root has the policy's too", 0, nil, Bundle{eth, spec(5, "xdp"), whole, 0}, "", "", nil}, // Check says so

		{"two rules are not mixed", 1000, []Rule{with(func(r *Rule) { r.Targets = []string{"host"} })[0], with(func(r *Rule) { r.Attach = []string{"tcx"} })[0]}, fits,
			`rule[0]: attach[0]: "interface:eth0" is not in its targets; rule[1]: program "p0" of section "xdp" is not in its attach`, "", ErrDenied},
		{"the second rule", 1000, []Rule{with(func(r *Rule) { r.Targets = nil })[0], ada}, fits, "", "", nil},
		{"what it executes", 1000, with(func(r *Rule) { r.Exe = "/bin/cat" }), fits, "", "", nil},
		{"whom the kernel cannot name, by a unit", 65534, with(func(r *Rule) { r.Who = Who{Unit: "web.service"} }), fits, "uid 65534 may not run bundles of its own", "", ErrDenied},
		{"another in the unit", 1001, with(func(r *Rule) { r.Who = Who{Unit: "web.service"} }), fits, "", "", nil},
		{"whom the kernel cannot name, by that number", 65534, with(func(r *Rule) { r.Who = Who{User: "65534", Unit: "web.service"} }), fits, "", "", nil},
		{"another executable", 1000, with(func(r *Rule) { r.Exe = "/bin/dog" }), fits, "may not run bundles of its own", "", ErrDenied},
		{"an executable alone", 1000, with(func(r *Rule) { r.Who = Who{Exe: "/bin/cat"} }), fits, "may not run bundles of its own", "", ErrDenied},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := New(Limits{Memory: 1 << 20, Maps: 4, Programs: 4, CPUs: 1}, host).WithRules(tt.rules)
			who := Subject{UID: tt.uid, Unit: "web.service", Exe: File{"/bin/cat", 8, 77}}
			g, err := p.Run(who, tt.b)
			steps, explained := p.ExplainRun(who, &tt.b)
			if fmt.Sprint(err) != fmt.Sprint(explained) || (err == nil) != slices.ContainsFunc(steps, func(s Step) bool { return s.Allows }) {
				t.Errorf("decides %v and explains %v, %+v", err, explained, steps)
			}
			// Whoever is sent away at the door would not have got in.
			if early := p.MayRun(who); early != nil && err == nil {
				t.Errorf("granted, and before: %v", early)
			}
			if tt.err == "" {
				if err != nil || g.verb != Run || g.digest != tt.b.Manifest.Digest {
					t.Errorf("%v, %+v", err, g)
				}
				return
			}
			if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.err) || remedy.Of(err) == "" || !strings.Contains(remedy.Of(err), tt.hint) {
				t.Errorf("%v (%s), want %s (%s)", err, remedy.Of(err), tt.err, tt.hint)
			}
			if g != (Grant{}) {
				t.Errorf("refused with %+v", g)
			}
		})
	}
	// The grant is for what the rule allows, and no more.
	g, err := New(Limits{Memory: 1 << 20, Maps: 4, Programs: 4, CPUs: 1}, host).WithRules(with(func(r *Rule) { r.Limits.Maps = 1 })).Run(Subject{UID: 1000}, fits)
	if err != nil || g.Check(eth, fits.Spec) != nil {
		t.Fatal(err)
	}
	if err := g.Check(eth, spec(2, "xdp")); !errors.Is(err, ErrLimit) {
		t.Errorf("more than the rule allows: %v", err)
	}
	if err := g.Check(manifest.Manifest{Name: "other"}, fits.Spec); !errors.Is(err, ErrDenied) {
		t.Errorf("another manifest: %v", err)
	}
	if err := New(Limits{}, host).MayRun(Subject{UID: 1000}); !errors.Is(err, ErrDenied) || remedy.Of(err) == "" {
		t.Error(err)
	}
}

func TestTargets(t *testing.T) {
	for _, test := range []struct {
		pattern, target string
		covers          bool
	}{
		{"interface:eth0", "interface:eth0", true},
		{"interface:eth0", "interface:eth01", false},
		{"interface:eth?", "interface:eth*", false},
		{"interface:eth*", "interface:eth*", true},
		{"interface:eth*", "interface:eth?", true},
		{"interface:*", "interface:[a-z]*", true},
		{"interface:[^e]*", "interface:[e]th0", false},
		{"interface:[^e]*", `interface:\eth0`, false},
		{"interface:[^e]*", "interface:wlan0", true},
		{"interface:[^e]*", "interface:[^e]*", true},
		{"interface:tap?????", "interface:tap[0-9]", false},
		{"interface:eth0", "netns:eth0", false},
		{"netns:/run/netns/*", "netns:/run/netns/x", true},
		{"netns:/run/netns/*", "netns:/run/netns/x/y", false},
		{"netns:/run/netns/*", "netns:/run/netns/..", false},
		{"netns:/run/netns/*", "netns:/proc/1/ns/net", false},
		{"cgroup:/sys/fs/cgroup/a/**", "cgroup:/sys/fs/cgroup/a/b", true},
		{"cgroup:/sys/fs/cgroup/a/**", "cgroup:/sys/fs/cgroup/a/b/c/d", true},
		{"cgroup:/sys/fs/cgroup/a/**", "cgroup:/sys/fs/cgroup/a", false},
		{"cgroup:/sys/fs/cgroup/a/**", "cgroup:/sys/fs/cgroup/a/", false},
		{"cgroup:/sys/fs/cgroup/a/**", "cgroup:/sys/fs/cgroup/ab", false},
		{"cgroup:/sys/fs/cgroup/a/**", "cgroup:/sys/fs/cgroup/a/../b", false},
		{"cgroup:/sys/fs/cgroup/a/**", "cgroup:/sys/fs/cgroup/a/b/../../..", false},
		{"cgroup:/sys/fs/cgroup/a/**", "cgroup:/sys/fs/cgroup/a//b", false},
		{"cgroup:/sys/fs/cgroup/*", "cgroup:/sys/fs/cgroup/a", true},
		{"cgroup:/sys/fs/cgroup/*", "cgroup:/sys/fs/cgroup/a/b", false},
		{"cgroup:/sys/fs/cgroup/*", "cgroup:/sys/fs/cgroup/.", false},
		{"host", "host", true},
		{"host", "caller", false},
		{"caller", "caller", true},
		{"caller", "interface:caller", false},
		{"interface:host", "host", false},
	} {
		if got := coversTarget(test.pattern, test.target); got != test.covers {
			t.Errorf("%s covers %s: %t", test.pattern, test.target, got)
		}
		if err := CheckTarget(test.pattern); err != nil {
			t.Errorf("%s: %v", test.pattern, err)
		}
	}
	for dir, want := range map[string]string{"a/b": "cgroup:/sys/fs/cgroup/a/b", "/x/y": "cgroup:/x/y", "../a": "cgroup:/sys/fs/cgroup/../a"} {
		if got := targets(manifest.Attach{Cgroup: dir}); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %v, want %s", dir, got, want)
		}
	}
}

// The name of an executable is another file's in another mount namespace.
func TestExe(t *testing.T) {
	p := New(Limits{}, host).WithRules([]Rule{{Who: Who{User: "ada", Exe: "/bin/cat"}}, {Who: Who{User: "ada", Exe: "/gone"}}})
	for _, test := range []struct {
		exe    File
		reason string
	}{
		{File{"/bin/cat", 8, 77}, ""},
		{File{}, `exe "/bin/cat": what the caller runs is not known`},
		{File{"/bin/dog", 8, 77}, `exe "/bin/cat": the caller runs "/bin/dog"`},
		{File{"/bin/cat", 8, 78}, `exe "/bin/cat": the caller runs another file of that name`},
		{File{"/bin/cat", 9, 77}, `exe "/bin/cat": the caller runs another file of that name`},
		{File{"/bin/cat", 0, 0}, `exe "/bin/cat": the caller runs another file of that name`},
		{File{"/gone", 0, 0}, `exe "/bin/cat": the caller runs "/gone"`},
	} {
		steps, err := p.ExplainRun(Subject{UID: 1000, Exe: test.exe}, nil)
		if (err == nil) != (test.reason == "") || test.reason != "" && steps[0].Reason != test.reason || steps[1].Allows {
			t.Errorf("%+v: %v, %+v", test.exe, err, steps)
		}
	}
}
