package loader

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// TestREADME compares the table with the code: each section that is in it and
// in the fixture has the link, the keys and the update that it says.
func TestREADME(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	table, refused, _ := strings.Cut(string(b), "## Refused")
	rows := map[string][]string{}
	quoted := regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 7 || !strings.Contains(cells[1], "`") {
			continue
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[1], -1) {
			rows[m[1]] = cells
		}
	}
	var programs []*ebpf.ProgramSpec
	for _, name := range []string{"attach", "attach_kernel"} {
		for _, p := range attachSpec(t, name).Programs {
			programs = append(programs, p)
		}
	}
	seen := map[string]bool{structOpsSection: true} // of a map: TestAttachStructOps
	for _, p := range programs {
		h, err := hookOf(p, "ingress")
		if err != nil {
			t.Fatal(err)
		}
		cells, section := rows[rowOf(p)], rowOf(p)
		if cells == nil {
			t.Errorf("%s is not in the table", section)
			continue
		}
		seen[section] = true
		var needs, takes []string
		for _, k := range quoted.FindAllStringSubmatch(cells[2], -1) {
			if strings.Contains(cells[2], "**"+k[0]+"**") {
				needs = append(needs, k[1])
			} else {
				takes = append(takes, k[1])
			}
		}
		slices.Sort(needs)
		slices.Sort(takes)
		if !slices.Equal(needs, slices.Sorted(slices.Values(h.needs))) || !slices.Equal(takes, slices.Sorted(slices.Values(h.takes))) {
			t.Errorf("%s: the table says it needs %q and takes %q, the code %q and %q", section, needs, takes, h.needs, h.takes)
		}
		if got := strings.TrimSpace(cells[3]); got != h.kind {
			t.Errorf("%s: the table says %s, the code %s", section, got, h.kind)
		}
		if got := strings.HasPrefix(strings.TrimSpace(cells[5]), "yes"); got != Updatable(h.kind) {
			t.Errorf("%s: the table says updatable %t, the code %t", section, got, Updatable(h.kind))
		}
	}
	if ops := rows[structOpsSection]; ops == nil || strings.TrimSpace(ops[3]) != kindStructOps || strings.HasPrefix(strings.TrimSpace(ops[5]), "yes") != Updatable(kindStructOps) {
		t.Errorf("%s: the table says %q", structOpsSection, ops)
	}
	for _, p := range attachSpec(t, "attach_refused").Programs {
		word, _, _ := strings.Cut(p.SectionName, "/")
		if p.Type != ebpf.UnspecifiedProgram && word != "sk_skb" && word != "xdp" && !strings.Contains(refused, "`"+word) {
			t.Errorf("%s is not among the refused", word)
		}
	}
	// Written otherwise, or of the same kind as one that is tested.
	other := []string{"xdp.frags", "tcx/egress", "tc/ingress", "raw_tracepoint/NAME", "raw_tp.w/NAME", "raw_tracepoint.w/NAME",
		"tracepoint/GROUP/NAME", "uretprobe.s", "iter.s/NAME", "uretprobe.multi.s", "iter/bpf_sk_storage_map", "iter/sockmap"}
	for section := range rows {
		if !seen[section] && !slices.Contains(other, section) {
			t.Errorf("%s is in the table, but no fixture has it", section)
		}
	}
}

// rowOf returns how the table writes the section of p.
func rowOf(p *ebpf.ProgramSpec) string {
	word, _, _ := strings.Cut(p.SectionName, "/")
	switch word {
	case "raw_tp", "tp_btf":
		return word + "/NAME"
	case "tp", "tracepoint":
		return "tp/GROUP/NAME"
	case "uprobe", "uretprobe", "uprobe.multi.s":
		return word
	case "kprobe", "kretprobe", "fentry", "fentry.s", "fexit", "fexit.s", "fmod_ret", "fmod_ret.s", "freplace",
		"lsm", "lsm.s", "ksyscall", "kretsyscall":
		return word + "/NAME"
	case "kprobe.multi", "kretprobe.multi", "kprobe.session":
		return word + "/PATTERN"
	case "iter":
		if p.AttachTo == "task" {
			return "iter/NAME"
		}
	}
	return p.SectionName
}
