package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// transcript is one command of a document and what it says that comes of it.
type transcript struct{ command, answer string }

// transcripts reads the console blocks of a document.
func transcripts(t *testing.T, file string) (all []transcript) {
	t.Helper()
	for i, block := range strings.Split(string(read(t, file)), "```console\n") {
		if i == 0 {
			continue
		}
		block, _, _ = strings.Cut(block, "```")
		for _, part := range strings.Split("\n"+block, "\n$ ")[1:] {
			command, answer, _ := strings.Cut(part, "\n")
			all = append(all, transcript{command, strings.TrimSuffix(answer, "\n")})
		}
	}
	return all
}

// TestAPIDocument: what docs/api.md shows is what curl gets.
func TestAPIDocument(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	object := example(t, "conn-count/conn_count.bpf.o")
	text := strings.ReplaceAll(string(read(t, "../../examples/conn-count/conn-count.toml")), `"hornet-demo"`, `"`+testenv.Cgroup(t)+`"`)
	text = "start = \"request\"\n" + strings.Replace(text, `"read:connects"`, `"read:connects", "write:connects"`, 1)
	h.Object("conn_count.bpf.o", object)
	h.Manifest("conn-count", text)
	dir := t.TempDir()
	mine, _, _ := strings.Cut(text, "[[allow]]")
	for name, b := range map[string][]byte{"mine.toml": []byte(mine), "conn_count.bpf.o": object, "conn_count.bpf.o.p7s": h.Sign(object)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h.Start()
	all := transcripts(t, "../../docs/api.md")
	if len(all) < 10 {
		t.Fatalf("%d commands", len(all))
	}
	for _, tt := range all {
		cmd := exec.Command("sh", "-c", strings.ReplaceAll(tt.command, "/run/hornet/hornetd.sock", h.Socket))
		cmd.Dir = dir
		got, err := cmd.Output()
		want := regexp.MustCompile(`(?s)^` + strings.ReplaceAll(regexp.QuoteMeta(tt.answer), "…", ".*") + `$`)
		if err != nil || !want.MatchString(strings.TrimSuffix(string(got), "\n")) {
			t.Errorf("$ %s\n%s%v\nthe document says\n%s", tt.command, got, err, tt.answer)
		}
	}
}
