package vmtest

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// attachRow is an attach type and the tests of package loader that prove it:
// with a real effect, on a real kernel.
type attachRow struct {
	name string
	test *regexp.Regexp
}

func row(name, test string) attachRow {
	return attachRow{name, regexp.MustCompile("^(" + test + ")$")}
}

var attachRows = []attachRow{
	row("xdp", `TestAttachInterface/xdp`),
	row("xdp, native", `TestAttachInterface/xdp_native`),
	row("xdp, generic", `TestAttachInterface/xdp_generic`),
	row("tcx ingress", `TestAttachInterface/tcx_ingress`),
	row("tcx egress", `TestAttachInterface/tcx_egress`),
	row("cgroup", `TestAttachCgroup`),
	row("cgroup, unix sockets", `TestAttachCgroup/unix`),
	row("cgroup, denied", `TestAttachCgroupDeny(/.+)?`),
	row("sk_lookup", `TestAttachSkLookup`),
	row("flow_dissector", `TestAttachFlowDissector`),
	row("netfilter", `TestAttachNetfilter`),
	row("netfilter, defrag", `TestAttachNetfilterDefrag`),
	row("raw_tp", `TestAttachTracing/raw_tp.*`),
	row("tp_btf", `TestAttachTracing/tp_btf`),
	row("tracepoint", `TestAttachTracing/(tracepoint|tp_by_manifest)`),
	row("uprobe", `TestAttachTracing/(uprobe.*|sleepable_uprobe)`),
	row("uretprobe", `TestAttachTracing/uretprobe`),
	row("iter", `TestAttachIter(/.+)?`),
	row("fentry", `TestAttachFunction/fentry.*`),
	row("fentry, of a module", `TestAttachModule`),
	row("fexit", `TestAttachFunction/fexit`),
	row("fmod_ret", `TestAttachFunction/fmod_ret`),
	row("fmod_ret, result changed", `TestAttachModifyReturn`),
	row("fentry, fexit, fmod_ret, sleepable", `TestAttachSleepable/.+`),
	row("freplace", `TestAttachReplace`),
	row("LSM", `TestAttachFunction/lsm`),
	row("LSM, denied", `TestAttachFunction/lsm_denies`),
	row("LSM, sleepable, denied", `TestAttachFunction/lsm_sleepable`),
	row("kprobe", `TestAttachFunction/(kprobe|kprobe_by_manifest)`),
	row("kprobe, offset", `TestAttachOffset`),
	row("kretprobe", `TestAttachFunction/kretprobe`),
	row("ksyscall, kretsyscall", `TestAttachFunction/k(ret)?syscall`),
	row("kprobe.multi", `TestAttachFunction/kprobe\.multi.*`),
	row("kretprobe.multi", `TestAttachFunction/kretprobe\.multi`),
	row("kprobe.session", `TestAttachFunction/kprobe\.session`),
	row("uprobe.multi", `TestAttachFunction/uprobe\.multi`),
	row("uprobe.multi, sleepable", `TestAttachFunction/uprobe\.multi_sleepable`),
	row("uretprobe.multi", `TestAttachFunction/uretprobe\.multi`),
	row("struct_ops", `TestAttachStructOps`),
	row("sk_msg", `TestAttachSockmap/sk_msg`),
	row("sk_skb", `TestAttachSockmap/(stream_.*|verdict)`),
}

// noTest is the cell of what did not run.
const noTest = "**no test**"

// Table returns the Markdown table of attach types and kernels.
func Table(kernels []string, results []Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| Attach type | Linux %s |\n|---|%s\n", strings.Join(kernels, " | "), strings.Repeat("---|", len(kernels)))
	for _, row := range attachRows {
		fmt.Fprintf(&b, "| %s |", row.name)
		for _, k := range kernels {
			fmt.Fprintf(&b, " %s |", cell(row, k, results))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func cell(row attachRow, kernel string, results []Result) string {
	passed, reason := 0, ""
	for _, r := range results {
		if r.Kernel != kernel || short(r.Package) != "loader" || !row.test.MatchString(r.Test) {
			continue
		}
		switch r.Action {
		case "pass":
			passed++
		case "skip":
			reason = r.Reason
		default:
			return "**failed**"
		}
	}
	switch {
	case reason != "":
		return "skipped: " + strings.ReplaceAll(reason, "|", "/")
	case passed > 0:
		return "passed"
	default:
		return noTest
	}
}

// WriteTable puts a table into a file, between the markers that name the command
// that makes it.
func WriteTable(file, command, table string) error {
	if strings.Contains(table, noTest) {
		return fmt.Errorf("%s: left as it was: not everything ran", file)
	}
	begin, end := []byte("<!-- "+command+" writes this -->\n"), []byte("<!-- end -->\n")
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(b, begin)
	_, after, ok2 := bytes.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s: has no markers for the table of %s", file, command)
	}
	return os.WriteFile(file, slices.Concat(before, begin, []byte(table), end, after), 0o644)
}

// TableOfTests returns the Markdown table of tests and kernels.
func TableOfTests(arch *Arch, kernels []string, results []Result) string {
	outcomes := map[string][]string{}
	var tests []string
	for _, r := range results {
		if r.Parent {
			continue
		}
		test := r.Test + " (" + short(r.Package) + ")"
		if outcomes[test] == nil {
			tests, outcomes[test] = append(tests, test), make([]string, len(kernels))
		}
		outcomes[test][slices.Index(kernels, r.Kernel)] = r.outcome()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| Test | Linux %s, %s |\n|---|%s\n", strings.Join(kernels, " | "), arch.Name, strings.Repeat("---|", len(kernels)))
	for _, t := range tests {
		fmt.Fprintf(&b, "| %s | %s |\n", t, strings.Join(outcomes[t], " | "))
	}
	return b.String()
}

// outcome is a cell of a table.
func (r *Result) outcome() string {
	switch r.Action {
	case "pass":
		return "passed"
	case "skip":
		return "skipped: " + strings.ReplaceAll(r.Reason, "|", "/")
	default:
		return "**failed**"
	}
}
