package vmtest

import (
	"fmt"
	"regexp"
)

// skipRule says which reason a test may give on which kernels.
type skipRule struct {
	reason *regexp.Regexp
	before string // kernels from this version on have the feature; "" is all
}

// skipRules are all reasons that count. What the kernel lacks is found by asking
// it; the version here only says on which kernel the answer cannot be true.
var skipRules = []skipRule{
	{regexp.MustCompile(`no exclusive maps`), "6.18"},
	{regexp.MustCompile(`no map hash`), "6.18"},
	{regexp.MustCompile(`^this kernel has no SO_PEERPIDFD`), "6.5"},
	{regexp.MustCompile(`no BPF_TCX_`), "6.6"},
	{regexp.MustCompile(`no BPF_NETFILTER`), "6.4"},
	{regexp.MustCompile(`no BPF_PERF_EVENT_`), "6.6"},
	{regexp.MustCompile(`no BPF_TRACE_UPROBE_MULTI`), "6.6"},
	{regexp.MustCompile(`no BPF_CGROUP_UNIX_`), "6.7"},
	{regexp.MustCompile(`no BPF_TOKEN_CREATE`), "6.9"},
	{regexp.MustCompile(`no BPF_LINK_TYPE_SOCKMAP`), "6.10"},
	{regexp.MustCompile(`no BPF_STRUCT_OPS`), "6.4"},
	{regexp.MustCompile(`no BPF_TRACE_KPROBE_SESSION`), "6.10"},
	{regexp.MustCompile(`^this kernel has no kprobe\.multi$`), "6.12"}, // Debian's 6.1 has no CONFIG_FPROBE
	{regexp.MustCompile(`^this kernel lets no fentry program sleep at bpf_fentry_test1$`), "6.3"},
	{regexp.MustCompile(`^this kernel lets no program change bpf_modify_return_test$`), "6.3"},
	{regexp.MustCompile(`this kernel loads fentry programs`), ""}, // about what others refuse
	{regexp.MustCompile(`not part of the repository`), ""},
	{regexp.MustCompile(`^needs (a C compiler|Python)$`), ""}, // guests have neither; the host runs these
	{regexp.MustCompile(`^is run by other tests`), ""},
	{regexp.MustCompile(`too slow in an emulated guest`), ""},
}

// judge turns skips without a reason that counts into failures.
func judge(results []Result) {
	for i := range results {
		if r := &results[i]; r.Action == "skip" {
			if why := refuse(*r); why != "" {
				r.Action, r.Reason = "fail", why
			}
		}
	}
}

func refuse(r Result) string {
	for _, rule := range skipRules {
		if !rule.reason.MatchString(r.Reason) {
			continue
		}
		if rule.before != "" && !versionLess(r.Kernel, rule.before) {
			return fmt.Sprintf("skipped (%s), but Linux has it since %s", r.Reason, rule.before)
		}
		return ""
	}
	return fmt.Sprintf("skipped (%s), and no rule in internal/vmtest/skips.go says that this may be", r.Reason)
}
