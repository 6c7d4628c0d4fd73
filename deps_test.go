// Package hornetd_test holds the rules about who may import what.
package hornetd_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/hornetd/hornetd"

// ours says which packages of this module a package may import, and why. What is
// not listed is forbidden, and a package without a row is too: a new one starts
// with the question where it belongs. Test files are free.
var ours = map[string]struct {
	may []string
	why string
}{
	"internal/remedy":   {nil, "carries a sentence; everything else may lean on it"},
	"internal/cms":      {nil, "whoever reviews the verifier reads this package and the standard library, no more"},
	"internal/bpfsys":   {nil, "is deleted when cilium/ebpf can do the same"},
	"internal/bpfname":  {nil, "is lists"},
	"internal/safefile": {leaf(), "a file is safe or not whatever it holds"},
	"internal/tomlfile": {leaf(), "bounds what manifests and the configuration share, knows neither"},
	"internal/confine":  {leaf(), "knows neither objects nor signers: a process, bytes, yes or no"},
	"internal/memcg":    {leaf(), "directories and numbers: what is charged there is for others"},
	"internal/resident": {leaf(), "keeps this process's memory in memory, and no more"},
	"internal/pidfd":    {nil, "asks the kernel which process a descriptor is of, and no more"},
	"internal/testenv":  {nil, "tests of every package use it, so it can use none of them"},

	"api":        {nil, "other programs import it: it must not drag the daemon along"},
	"api/bpfmap": {[]string{"api"}, "a client of the client, for programs that use the eBPF library anyway"},
	"systemd":    {leaf(), "speaks a protocol, knows nothing of eBPF"},
	"audit":      {leaf(), "must be able to record whatever the other packages do"},
	"signing":    {leaf("internal/cms", "internal/safefile", "internal/tomlfile"), "who signed does not depend on what was asked for"},
	"manifest":   {leaf("internal/safefile", "internal/tomlfile"), "a claim: it must not know what is decided about it"},
	"pinning":    {leaf("internal/bpfsys"), "writes bpffs and records; what they mean is for others"},

	"policy":            {leaf("manifest", "signing"), "decides on data alone: no files, no kernel"},
	"internal/names":    {leaf("policy"), "what a name in a rule stands for, the same for who decides and who explains"},
	"loader":            {leaf("manifest", "signing", "internal/bpfsys", "internal/pidfd"), "touches the kernel with what was verified; who may ask is decided before"},
	"internal/mapmaker": {leaf("internal/confine"), "makes maps of plain data; what they are for, and whether they are what was asked for, is for others"},
	"config":            {leaf("policy", "signing", "internal/bpfname", "internal/safefile", "internal/tomlfile"), "the operator's word; shares nothing with manifest, which is anybody's"},

	"internal/progwatch": {nil, "hears of programs, and does not know whose they are"},

	"lsm-module": {leaf("internal/bpfname", "internal/bpfsys"), "gets a directory and data: who uses it decides what they mean"},

	"internal/daemon": {leaf("api", "audit", "config", "loader", "lsm-module", "manifest", "pinning", "policy", "signing",
		"internal/bpfname", "internal/bpfsys", "internal/confine", "internal/mapmaker", "internal/memcg", "internal/names", "internal/pidfd", "internal/progwatch", "internal/resident", "internal/safefile"), "composes the rest; nothing composes it but the command"},
	"cmd/hornetd": {leaf("config", "systemd", "internal/daemon", "internal/resident", "internal/safefile"), "flags, configuration, values, run"},
	"cmd/hornetctl": {leaf("api", "config", "loader", "manifest", "policy", "signing", "internal/names", "internal/safefile"),
		"a client: what it does without the daemon is reading, judging and signing files"},

	"internal/testdaemon":    {[]string{"api", "signing", "internal/testenv"}, "starts the real binaries and is their client"},
	"internal/faults":        {nil, "is tests and says why"},
	"internal/bench":         {[]string{"api", "signing", "internal/testenv"}, "measures the real binaries from outside"},
	"internal/vmtest":        {nil, "boots kernels and knows nothing of what is tested there"},
	"internal/vmtest/init":   {[]string{"internal/vmtest"}, "the first process of a guest"},
	"internal/vmtest/cmd/vm": {[]string{"internal/vmtest"}, "flags, guest, results"},
	"examples":               {nil, "holds files and their tests"},
	"examples/toctou":        {[]string{"api"}, "an attacker and a client, like any other program"},
	"scripts/testsum":        {nil, "reads what go test prints"},
	"scripts/mutate":         {nil, "changes sources and runs their tests"},
	"scripts/mutate-guard":   {[]string{"internal/vmtest"}, "changes the guard and runs its tests in guests"},
}

// leaf is a list with what any package may import.
func leaf(more ...string) []string { return append(more, "internal/remedy") }

// others says which packages may import a path that is not ours (or one below
// it), and why only these. Paths that are not listed are free.
var others = []struct {
	path string
	may  []string
	why  string
}{
	{"github.com/BurntSushi/toml", []string{"internal/tomlfile"}, "40 KB of TOML can cost it 15 GB: all TOML goes through the bounds"},
	{"github.com/cilium/ebpf", []string{"api/bpfmap", "internal/daemon", "internal/mapmaker", "internal/testenv", "internal/bench", "loader", "lsm-module", "pinning", "policy", "examples/toctou"},
		"what touches the kernel, and policy, which measures what an object asks for; of what clients import only the package that is for it"},
	{"github.com/c2sp/wycheproof", nil, "test vectors: 100 MB, for tests"},
	{"github.com/coreos/go-systemd/v22", []string{"systemd"}, "runs the same without systemd"},
	{"github.com/pb33f", nil, "a reader of OpenAPI documents, for tests"},
	{"github.com/smallstep/pkcs7", nil, "a second reader of signatures, for tests: it takes what internal/cms refuses"},
	{"github.com/spf13", []string{"cmd/hornetctl"}, "the daemon has three flags"},
	{"go.uber.org/zap", []string{"cmd/hornetd", "config", "internal/daemon"}, "libraries return what they did; only the daemon logs"},
	{"go.yaml.in/yaml/v3", []string{"cmd/hornetctl"}, "output for people; nothing reads YAML"},
	{"log", nil, "there is one log, the daemon's"},
	{"log/slog", nil, "there is one log, the daemon's"},
	{"net/http", []string{"api", "internal/daemon"}, "one server, one client"},
	{"os/exec", []string{"internal/testenv", "internal/testdaemon", "internal/bench", "examples/toctou", "scripts/mutate", "scripts/mutate-guard", "scripts/testsum", "internal/vmtest", "internal/vmtest/cmd/vm", "cmd/hornetctl"},
		"hornetd runs no other program, and hornetctl only the one it is told to sign with"},
	{"os/user", []string{"cmd/hornetctl", "internal/daemon"}, "with cgo it asks the C library, slow or not; a rule's names are looked up in the files (internal/names)"},
	{"golang.org/x/sys/unix", []string{"cmd/hornetd", "cmd/hornetctl", "api/bpfmap", "audit", "systemd", "loader", "lsm-module", "pinning", "examples/toctou",
		"internal/bench", "internal/bpfsys", "internal/confine", "internal/daemon", "internal/mapmaker", "internal/memcg", "internal/names", "internal/pidfd", "internal/progwatch", "internal/resident", "internal/safefile", "internal/testenv", "internal/vmtest", "internal/vmtest/init"},
		"api, manifest, policy, config and signing decide on data, without system calls"},
	{"unsafe", []string{"internal/bpfsys", "internal/confine", "internal/daemon", "internal/progwatch", "internal/testenv", "internal/vmtest/init", "loader", "lsm-module"}, "system calls that take a pointer"},
	{"C", nil, "static binaries"},
	{"compress", nil, "a compressed file says nothing about its size"},
	{"archive", nil, "an archive says nothing about its size"},
	{"encoding/gob", nil, "made for programs that trust each other"},
}

// source is a Go file that is not a test.
type source struct {
	pkg string // its directory, from the module's root
	*ast.File
	fset *token.FileSet
}

// sources parses every Go file of the module but the tests.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || len(name) > 1 && strings.HasPrefix(d.Name(), ".")):
			return filepath.SkipDir
		case filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		all = append(all, source{filepath.ToSlash(filepath.Dir(name)), f, fset})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 30 {
		t.Fatalf("only %d files found", len(all))
	}
	return all
}

func TestImports(t *testing.T) {
	seen := map[string]bool{}
	for _, src := range sources(t) {
		seen[src.pkg] = true
		for _, spec := range src.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if err := allowed(src.pkg, imported); err != nil {
				t.Errorf("%s: %v", src.fset.Position(spec.Pos()), err)
			}
		}
	}
	for pkg := range seen {
		if _, ok := ours[pkg]; !ok {
			t.Errorf("package %s has no row in ours", pkg)
		}
	}
}

// allowed says why pkg may not import a path, or nil.
func allowed(pkg, imported string) error {
	if name, ok := strings.CutPrefix(imported, module+"/"); ok {
		rule := ours[pkg]
		if !slices.Contains(rule.may, name) {
			return fmt.Errorf("%s must not import %s: it %s", pkg, name, rule.why)
		}
	}
	for _, rule := range others {
		if (imported == rule.path || strings.HasPrefix(imported, rule.path+"/")) && !slices.Contains(rule.may, pkg) {
			return fmt.Errorf("%s must not import %s: %s", pkg, imported, rule.why)
		}
	}
	return nil
}

// The rules themselves are held against a few imports that must not be.
func TestAllowed(t *testing.T) {
	for _, tt := range []struct {
		pkg, imported string
		ok            bool
	}{
		{"policy", module + "/manifest", true},
		{"manifest", module + "/policy", false},
		{"api", module + "/internal/remedy", false},
		{"loader", module + "/internal/testenv", false},
		{"loader", "github.com/cilium/ebpf/link", true},
		{"api", "github.com/cilium/ebpf/link", false},
		{"manifest", "github.com/BurntSushi/toml", false},
		{"signing", "crypto/x509", true},
		{"signing", "golang.org/x/sys/unix", false},
		{"internal/daemon", "os/exec", false},
		{"nowhere", module + "/api", false},
	} {
		if err := allowed(tt.pkg, tt.imported); (err == nil) != tt.ok {
			t.Errorf("%s imports %s: %v", tt.pkg, tt.imported, err)
		}
	}
}

// Nothing points upwards: the rules have no circle, whatever is imported today.
func TestRulesHaveNoCircle(t *testing.T) {
	var visit func(pkg string, above []string)
	visit = func(pkg string, above []string) {
		if slices.Contains(above, pkg) {
			t.Fatalf("circle: %s", strings.Join(append(above, pkg), " -> "))
		}
		for _, next := range ours[pkg].may {
			visit(next, append(slices.Clip(above), pkg))
		}
	}
	for pkg := range ours {
		visit(pkg, nil)
	}
}

// calls are selectors that only few packages may use.
var calls = []struct {
	selector string
	may      []string
	why      string
}{
	{"unix.SYS_BPF", []string{"internal/bpfsys", "internal/testenv", "internal/confine", "lsm-module"}, "bpf(2) goes through cilium/ebpf or internal/bpfsys; internal/confine has its number in a filter, and lsm-module looks for it in others'"},
	{"os.Exit", []string{"cmd/hornetd", "cmd/hornetctl", "internal/bench", "internal/testdaemon", "internal/vmtest/cmd/vm", "internal/vmtest/init", "examples/toctou", "scripts/mutate", "scripts/mutate-guard", "scripts/testsum"},
		"a deferred function must run; only main ends the process"},
}

func TestCalls(t *testing.T) {
	for _, src := range sources(t) {
		ast.Inspect(src.File, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				x, ok := n.X.(*ast.Ident)
				for _, rule := range calls {
					if ok && x.Name+"."+n.Sel.Name == rule.selector && !slices.Contains(rule.may, src.pkg) {
						t.Errorf("%s: %s: %s", src.fset.Position(n.Pos()), rule.selector, rule.why)
					}
				}
			case *ast.FuncDecl:
				if n.Name.Name == "init" && n.Recv == nil && !keepsFirstThread(n) {
					t.Errorf("%s: init: what a program is made of stands in main", src.fset.Position(n.Pos()))
				}
			}
			return true
		})
	}
}

// keepsFirstThread reports whether an init does no more than keep the process's first
// thread for the main goroutine, which nothing later can do (go doc runtime.LockOSThread).
func keepsFirstThread(init *ast.FuncDecl) bool {
	if len(init.Body.List) != 1 {
		return false
	}
	stmt, ok := init.Body.List[0].(*ast.ExprStmt)
	if !ok {
		return false
	}
	call, ok := stmt.X.(*ast.CallExpr)
	return ok && types.ExprString(call.Fun) == "runtime.LockOSThread"
}

// Every module linked into the daemon is code that runs as root.
func TestModulesOfTheDaemon(t *testing.T) {
	const most = 10
	out, err := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "./cmd/hornetd").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	modules := slices.Compact(slices.Sorted(strings.FieldsSeq(string(out))))
	modules = slices.DeleteFunc(modules, func(m string) bool { return m == module })
	if len(modules) == 0 || len(modules) > most {
		t.Errorf("%d modules, must be 1 to %d: %s", len(modules), most, strings.Join(modules, " "))
	}
	t.Logf("%d modules: %s", len(modules), strings.Join(modules, " "))
}

// A rule that names what is not there protects nothing.
func TestRulesNamePackages(t *testing.T) {
	exists := map[string]bool{}
	for _, src := range sources(t) {
		exists[src.pkg] = true
	}
	for pkg, rule := range ours {
		for _, name := range append(slices.Clip(rule.may), pkg) {
			if !exists[name] {
				t.Errorf("rule of %s: there is no package %s", pkg, path.Join(module, name))
			}
		}
	}
}
