package main_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/signing"
)

// signedHost is a host whose guard only what "root" signs ends. openssl has the key.
type signedHost struct {
	*testdaemon.Host
	t   *testing.T
	dir string // with root.key, root.pem
}

func guardSigned(t *testing.T, mode api.GuardMode) signedHost {
	t.Helper()
	testenv.NoLeaks(t)
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The test may end hornetd.
	h, _ := guarded(t, mode, fmt.Sprintf("disarm = \"signed\"\nallow = [{ executable = %q, signals = true }]\n", own)+"[trust]\nroots = [\"dev\", \"root\"]\n")
	// dev is a root, and as its only key sealed: root comes by a statement that dev signs.
	s := signedHost{h, t, t.TempDir()}
	run(t, "openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-keyout", s.path("root.key"), "-out", s.path("root.pem"),
		"-subj", "/CN=root", "-addext", "keyUsage=digitalSignature")
	t.Cleanup(s.disarm)
	return s
}

// disarm ends a guard that enforces and that the test has left: the next one would have none
// of its own, and nothing that is mounted on its pins could go. One that only tells ends with
// its bpffs.
func (s signedHost) disarm() {
	st, err := s.Client().Status(context.Background())
	if err != nil || st.Guard.Mode != api.GuardEnforce {
		return
	}
	if st.Guard.Disarm != "signed" {
		s.Client().Guard(context.Background(), api.GuardRequest{Mode: api.GuardOff, Reason: "the test ends"})
		return
	}
	ends := s.statement("disarm", "the test ends")
	for _, by := range []string{"root", "dev"} { // whoever signs by now
		s.do("disarm", ends, by)
	}
}

func (s signedHost) path(name string) string { return filepath.Join(s.dir, name) }

func (s signedHost) write(name string, b []byte) string {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), b, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return s.path(name)
}

// statement returns the file of what hornetd says.
func (s signedHost) statement(act, reason string, args ...string) string {
	s.t.Helper()
	out, stderr, exit := s.Ctl(append([]string{"guard", "statement", act, "--reason", reason}, args...)...)
	if exit != 0 {
		s.t.Fatal(stderr)
	}
	f, err := os.CreateTemp(s.dir, act)
	if err == nil {
		_, err = f.WriteString(out)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		s.t.Fatal(err)
	}
	return f.Name()
}

// sign has openssl sign a file; "dev" is hornetctl's key.
func (s signedHost) sign(file, by string) string {
	s.t.Helper()
	key, cert := s.path(by+".key"), s.path(by+".pem")
	if by == "dev" {
		key, cert = s.Key()
	}
	out := s.path(filepath.Base(file) + "." + by + ".p7s")
	run(s.t, "openssl", "cms", "-sign", "-binary", "-in", file, "-signer", cert, "-inkey", key, "-outform", "DER", "-out", out)
	return out
}

// do has hornetd do what a file says, signed by somebody.
func (s signedHost) do(act, file, by string) (stderr string, exit int) {
	s.t.Helper()
	return s.give(act, file, s.sign(file, by))
}

func (s signedHost) give(act, file, signature string) (stderr string, exit int) {
	s.t.Helper()
	_, stderr, exit = s.Ctl("guard", act, "--statement", file, "--signature", signature)
	return stderr, exit
}

func (s signedHost) wantRefused(what, stderr string, exit int, like string) {
	s.t.Helper()
	if exit == 0 || !strings.Contains(stderr, like) || !strings.Contains(stderr, "hint: ") {
		s.t.Errorf("%s: exit %d, want %q and a hint: %s", what, exit, like, stderr)
	}
}

func (s signedHost) wantDone(what, stderr string, exit int) {
	s.t.Helper()
	if exit != 0 {
		s.t.Fatalf("%s: exit %d: %s", what, exit, stderr)
	}
}

func (s signedHost) mode() api.Guard {
	s.t.Helper()
	st, err := s.Client().Status(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return *st.Guard
}

// TestGuardSigned: where the guard was armed with disarm = "signed", root's word ends
// nothing, enrolls nothing and has no other key count; what a sealed root signed does,
// once.
func TestGuardSigned(t *testing.T) {
	s := guardSigned(t, api.GuardAudit)
	for _, args := range [][]string{{"disarm", "--reason", "why not"}, {"enroll", "/bin/true"}} {
		_, stderr, exit := s.Ctl(append([]string{"guard"}, args...)...)
		s.wantRefused(args[0], stderr, exit, "a root's signature")
	}
	if _, _, exit := s.CtlAs(1234, "guard", "statement", "disarm", "--reason", "x"); exit != 3 {
		t.Errorf("another user's statement: exit %d, want 3", exit)
	}
	if g := s.mode(); g.Mode != api.GuardAudit || g.Disarm != "signed" {
		t.Fatalf("guard %+v", g)
	}

	// A key in the trust store counts when a sealed root has signed that, not before.
	cert, err := os.ReadFile(s.path("root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	s.Write("trust.d/root.pem", cert)
	_, stderr, exit := s.Ctl("reload")
	s.wantRefused("reload with another key", stderr, exit, `signer "root" came to the trust store`)
	trust := s.statement("trust", "our own root")
	b, err := os.ReadFile(trust)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(b, []byte(signing.StatementHeader)) || !bytes.Contains(b, []byte(`key "root": RSA 2048`)) || !bytes.Contains(b, []byte("statements such as this")) {
		t.Errorf("the statement does not say what it is about:\n%s", b)
	}
	stderr, exit = s.do("trust", trust, "root")
	s.wantRefused("trust, signed by whom it is about", stderr, exit, "root")
	stderr, exit = s.do("trust", trust, "dev")
	s.wantDone("trust", stderr, exit)
	stderr, exit = s.do("trust", trust, "dev")
	s.wantRefused("trust again", stderr, exit, "has not given it out")
	if _, stderr, exit = s.Ctl("reload"); exit != 0 {
		t.Error(stderr)
	}
	_, stderr, exit = s.Ctl("guard", "statement", "trust", "--reason", "x")
	s.wantRefused("trust, and nothing is new", stderr, exit, "are what is sealed")

	bad := s.statement("disarm", "bad")
	s.badStatements(bad)
	s.enrolls()
	s.settings()

	_, stderr, exit = s.Ctl("guard", "disarm", "--statement", bad)
	if exit != 2 || !strings.Contains(stderr, "--signature is missing") {
		t.Errorf("without a signature: exit %d: %s", exit, stderr)
	}
	earlier, good := s.statement("disarm", "another time"), s.statement("disarm", "it was a test")
	stderr, exit = s.do("disarm", good, "root")
	s.wantDone("disarm", stderr, exit)
	unhooked(t)
	onRecord(t, s.Host, func(r guardRecord) bool {
		return r.Verb == "guard" && r.Phase == "outcome" && strings.Contains(r.Reason, "it was a test: signed by root (key ")
	})
	stderr, exit = s.do("disarm", good, "root")
	s.wantRefused("disarm again", stderr, exit, "used already")

	// What was asked for another arming is not for this one.
	if _, err := s.Client().Guard(t.Context(), api.GuardRequest{Mode: api.GuardAudit}); err != nil {
		t.Fatal(err)
	}
	stderr, exit = s.do("disarm", earlier, "root")
	s.wantRefused("of an earlier arming", stderr, exit, "has not given it out")
	kept := s.statement("disarm", "it was a test")
	s.Stop()
	s.Start()
	stderr, exit = s.do("disarm", kept, "root")
	s.wantRefused("of an earlier hornetd", stderr, exit, "has not given it out")
	if g := s.mode(); g.Mode != api.GuardAudit {
		t.Errorf("guard %+v", g)
	}
}

// badStatements are what must not end a guard. good is a statement that could.
func (s signedHost) badStatements(good string) {
	s.t.Helper()
	text, err := os.ReadFile(good)
	if err != nil {
		s.t.Fatal(err)
	}
	object := s.write("object", example(s.t, "xdp-drop/xdp_drop.bpf.o"))
	signature := s.sign(good, "root")
	der, err := os.ReadFile(signature)
	if err != nil {
		s.t.Fatal(err)
	}
	key, cert, err := signing.Keygen("stranger", "")
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("stranger.key", key)
	s.write("stranger.pem", cert)
	audit := s.statement("audit", "another")
	resigned := func(name string, b []byte) (string, string) {
		file := s.write(name, b)
		return file, s.sign(file, "root")
	}
	otherBoot, otherBootSig := resigned("boot", bytes.Replace(text, []byte("\nboot     \""), []byte("\nboot     \"0"), 1))
	cut, cutSig := resigned("cut", text[:len(text)-2])
	more, moreSig := resigned("more", append(bytes.Clone(text), '\n'))
	crlf, crlfSig := resigned("crlf", bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")))
	for _, tt := range []struct{ what, act, file, signature, want string }{
		{"nobody known", "disarm", good, s.sign(good, "stranger"), "unknown-key"},
		{"an object's signature", "disarm", good, s.sign(object, "root"), "bad-signature"},
		{"an object", "disarm", object, s.sign(object, "root"), "has not given it out"},
		{"another statement's signature", "disarm", good, s.sign(audit, "root"), "bad-signature"},
		{"another act", "disarm", audit, s.sign(audit, "root"), "it is for audit, not for disarm"},
		{"another act", "trust", good, signature, "it is for disarm, not for trust"},
		{"another boot", "disarm", otherBoot, otherBootSig, "has not given it out"},
		{"less", "disarm", cut, cutSig, "has not given it out"},
		{"more", "disarm", more, moreSig, "has not given it out"},
		{"other ends of lines", "disarm", crlf, crlfSig, "has not given it out"},
		{"half a signature", "disarm", good, s.write("half", der[:len(der)/2]), "bad-signature"},
		{"no signature", "disarm", good, s.write("none", nil), "bad-signature"},
		{"the statement as its signature", "disarm", good, good, "bad-signature"},
	} {
		stderr, exit := s.give(tt.act, tt.file, tt.signature)
		s.wantRefused(tt.what, stderr, exit, tt.want)
	}
	mib := s.write("mib", bytes.Repeat([]byte("x"), 1<<20))
	for _, files := range [][2]string{{mib, signature}, {good, mib}} {
		if stderr, exit := s.give("disarm", files[0], files[1]); exit == 0 || !strings.Contains(stderr, "longer than") {
			s.t.Errorf("1 MiB: exit %d: %s", exit, stderr)
		}
	}
	body := fmt.Sprintf(`{"act":"disarm","statement":"%s","signature":"%s"}`, strings.Repeat("x", 1<<20), base64.StdEncoding.EncodeToString(der))
	if got := s.raw("/v1/guard/signed", body); !strings.Contains(got, `"limit"`) {
		s.t.Errorf("1 MiB past hornetctl: %s", got)
	}
	if got := s.raw("/v1/guard/signed", `{"act":"off","statement":"x","signature":"eA=="}`); !strings.Contains(got, "no such act") {
		s.t.Errorf("an act that there is not: %s", got)
	}

	// Nor is a statement's signature anything but that.
	s.Object("statement.o", text)
	s.Write("hornet.d/statement.o.p7s", der)
	s.Manifest("statement", "start = \"request\"\n[object]\npath = \"statement.o\"\n")
	if _, stderr, exit := s.Ctl("load", "statement"); exit == 0 {
		s.t.Errorf("a statement was loaded: %s", stderr)
	}
	for _, name := range []string{"statement.o", "statement.o.p7s", "statement.toml"} {
		if err := os.Remove(filepath.Join(s.Manifests, name)); err != nil {
			s.t.Fatal(err)
		}
	}
	if g := s.mode(); g.Mode != api.GuardAudit {
		s.t.Fatalf("guard %+v", g)
	}
}

// raw sends a body, whatever its length.
func (s signedHost) raw(path, body string) string {
	s.t.Helper()
	conn, err := net.Dial("unix", s.Socket)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	go fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	b := make([]byte, 64<<10)
	n, _ := conn.Read(b)
	return string(b[:n])
}

// enrolls: the very file that was signed, and no other of its name.
func (s signedHost) enrolls() {
	s.t.Helper()
	program, err := os.ReadFile("/bin/true")
	if err != nil {
		s.t.Fatal(err)
	}
	_, stderr, exit := s.Ctl("guard", "statement", "enroll", s.write("afar", program), "--reason", "an update")
	s.wantRefused("another file system", stderr, exit, "on another file system than hornetd")
	file := testdaemon.Binary(s.t, "hornetd") + ".next" // on its file system
	s.t.Cleanup(func() { os.Remove(file) })
	install := func(b []byte) {
		s.t.Helper()
		os.Remove(file)
		if err := os.WriteFile(file, b, 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
	install(program)
	statement := s.statement("enroll", "an update", file)
	install(append(bytes.Clone(program), 'x'))
	stderr, exit = s.do("enroll", statement, "root")
	s.wantRefused("another file", stderr, exit, "was signed")
	install(program)
	stderr, exit = s.do("enroll", statement, "root") // nothing was done with it
	s.wantDone("enroll", stderr, exit)
	stderr, exit = s.do("enroll", statement, "root")
	s.wantRefused("enroll again", stderr, exit, "used already")
	if _, stderr, exit := s.Ctl("guard", "retire", file); exit != 0 { // which only makes it stricter
		s.t.Errorf("retire: exit %d: %s", exit, stderr)
	}
}

// settings: hornetd.toml counts at the next start, and what runs now is as it was.
func (s signedHost) settings() {
	s.t.Helper()
	before, err := os.ReadFile(s.Config)
	if err != nil {
		s.t.Fatal(err)
	}
	s.Write("hornetd.toml", append(bytes.Clone(before), "\n[signers.dev]\nattach = [\"xdp\"]\n"...))
	statement := s.statement("trust", "dev attaches XDP only")
	stderr, exit := s.do("trust", statement, "root")
	s.wantDone("settings", stderr, exit)
	if _, stderr, exit := s.Ctl("reload"); exit != 0 {
		s.t.Error(stderr)
	}
	// Who will be no root is none at once.
	s.Write("hornetd.toml", bytes.ReplaceAll(before, []byte(`["dev", "root"]`), []byte(`["root"]`)))
	stderr, exit = s.do("trust", s.statement("trust", "dev has left"), "root")
	s.wantDone("a root less", stderr, exit)
	stderr, exit = s.do("disarm", s.statement("disarm", "revenge"), "dev")
	s.wantRefused("who is no root any more", stderr, exit, "may sign this")
	s.otherRoot(before)
	s.otherStore(before)
	s.Write("hornetd.toml", append([]byte("# another file\n"), before...))
	if text, err := os.ReadFile(s.statement("trust", "a comment")); err != nil || !bytes.Contains(text, []byte("is another file that says the same")) {
		s.t.Errorf("%v: it says nothing of the other file:\n%s", err, text)
	}
	// Put back, it is what is in force; that the other counts is withdrawn.
	s.Write("hornetd.toml", before)
	stderr, exit = s.do("trust", s.statement("trust", "not so"), "root")
	s.wantDone("settings withdrawn", stderr, exit)
	_, stderr, exit = s.Ctl("guard", "statement", "trust", "--reason", "x")
	s.wantRefused("trust, and nothing is new", stderr, exit, "are what is sealed")
	s.Write("hornetd.toml", bytes.ReplaceAll(before, []byte(`["dev", "root"]`), []byte(`["nobody"]`)))
	_, stderr, exit = s.Ctl("guard", "statement", "trust", "--reason", "x")
	s.wantRefused("nobody as root", stderr, exit, "nobody could end it")
	s.Write("hornetd.toml", before)
}

// otherRoot: who has become the only root is it at once, whatever hornetd.toml said when
// hornetd started; or nobody could sign until a restart, and what fails then ends never.
func (s signedHost) otherRoot(before []byte) {
	s.t.Helper()
	run(s.t, "openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-keyout", s.path("late.key"), "-out", s.path("late.pem"),
		"-subj", "/CN=late", "-addext", "keyUsage=digitalSignature")
	cert, err := os.ReadFile(s.path("late.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.Write("trust.d/late.pem", cert)
	s.Write("hornetd.toml", bytes.ReplaceAll(before, []byte(`["dev", "root"]`), []byte(`["late"]`)))
	stderr, exit := s.do("trust", s.statement("trust", "another root"), "root")
	s.wantDone("another root", stderr, exit)
	if _, stderr, exit := s.Ctl("reload"); exit != 0 {
		s.t.Error(stderr)
	}
	s.Write("hornetd.toml", before)
	stderr, exit = s.do("trust", s.statement("trust", "as it was"), "late")
	s.wantDone("signed by the other root", stderr, exit)
	if err := os.Remove(filepath.Join(s.Trust, "late.pem")); err != nil {
		s.t.Error(err)
	}
	if _, stderr, exit := s.Ctl("reload"); exit != 0 {
		s.t.Error(stderr)
	}
}

// otherStore: what is signed for another directory of keys is of what is in that.
func (s signedHost) otherStore(before []byte) {
	s.t.Helper()
	if err := os.Mkdir(filepath.Join(s.Dir, "other.d"), 0o755); err != nil {
		s.t.Fatal(err)
	}
	for name, from := range map[string]string{"root.pem": "root.pem", "other.pem": "late.pem"} {
		cert, err := os.ReadFile(s.path(from))
		if err != nil {
			s.t.Fatal(err)
		}
		s.Write("other.d/"+name, cert)
	}
	s.Write("hornetd.toml", bytes.ReplaceAll(before, []byte("trust.d"), []byte("other.d")))
	text, err := os.ReadFile(s.statement("trust", "another store"))
	if err != nil || !bytes.Contains(text, []byte(`key "other"`)) {
		s.t.Errorf("%v: it does not say what is in the other store:\n%s", err, text)
	}
	s.Write("hornetd.toml", before)
}

// TestGuardSignedElsewhere: whoever writes hornetd.toml and the trust store, and has the
// first process start hornetd with another bpffs, as a hornetd that the guard knows, has
// nothing loaded with it.
func TestGuardSignedElsewhere(t *testing.T) {
	for _, mode := range []api.GuardMode{api.GuardAudit, api.GuardEnforce} {
		t.Run(string(mode), func(t *testing.T) {
			s := guardSigned(t, mode)
			before, err := os.ReadFile(s.Config)
			if err != nil {
				t.Fatal(err)
			}
			evil := testenv.BPFFS(t)
			s.Stop()
			s.evil(evil)
			const why = "that is not pinned in "
			if log := s.fromInit(); !strings.Contains(log, why+evil) {
				t.Errorf("with another bpffs: %s", log)
			}
			notThere := func(how string) {
				t.Helper()
				if names, err := os.ReadDir(evil); err != nil || slices.ContainsFunc(names, func(e os.DirEntry) bool { return e.Name() == "evil" }) {
					t.Errorf("%s: %v: it was loaded, there are %v", how, err, names)
				}
			}
			notThere("with another bpffs")
			if mode == api.GuardEnforce { // else root may do what it likes, and the guard tells of it
				// It could load (CAP_BPF), and cannot look for a guard.
				log := s.fromInit("setpriv", "--bounding-set", "-sys_admin", "--")
				if !strings.Contains(log, "programs are not listed") {
					t.Errorf("without CAP_SYS_ADMIN: %s", log)
				}
				notThere("without CAP_SYS_ADMIN")
				s.endInit()
			}

			// As it was, it starts, and a root ends the guard.
			s.good(before)
			s.Write("hornetd.toml", append(bytes.Clone(before), "\n[log]\nlevel = \"warn\"\n"...)) // says the same
			log := s.fromInit()
			if g := s.mode(); g.Mode != mode || g.Disarm != "signed" {
				t.Fatalf("guard %+v: %s", g, log)
			}
			_, stderr, exit := s.Ctl("guard", "statement", "trust", "--reason", "x")
			s.wantRefused("trust, and nothing is new", stderr, exit, "are what is sealed")
			stderr, exit = s.do("disarm", s.statement("disarm", "the test ends"), "dev")
			s.wantDone("disarm", stderr, exit)
		})
	}
}

// evil writes what a stranger has loaded at a start, and another bpffs.
func (s signedHost) evil(bpffs string) {
	s.t.Helper()
	before, err := os.ReadFile(s.Config)
	if err != nil {
		s.t.Fatal(err)
	}
	key, cert, err := signing.Keygen("stranger", "")
	if err != nil {
		s.t.Fatal(err)
	}
	object := example(s.t, "conn-count/conn_count.bpf.o")
	s.write("stranger.key", key)
	s.write("stranger.pem", cert)
	signature, err := os.ReadFile(s.sign(s.write("evil.o", object), "stranger"))
	if err != nil {
		s.t.Fatal(err)
	}
	settings := strings.NewReplacer(fmt.Sprintf("bpffs = %q", s.BPFFS), fmt.Sprintf("bpffs = %q", bpffs), `disarm = "signed"`, `mode = "off"`).Replace(string(before))
	s.Write("hornetd.toml", []byte(settings))
	s.Write("trust.d/stranger.pem", cert)
	s.Write("hornet.d/evil.o", object)
	s.Write("hornet.d/evil.o.p7s", signature)
	s.Manifest("evil", strings.NewReplacer("conn_count.bpf.o", "evil.o", `"request"`, `"boot"`).Replace(connCount(testenv.Cgroup(s.t))))
}

// good takes that away again.
func (s signedHost) good(settings []byte) {
	s.t.Helper()
	for _, name := range []string{"trust.d/stranger.pem", "hornet.d/evil.o", "hornet.d/evil.o.p7s", "hornet.d/evil.toml"} {
		if err := os.Remove(filepath.Join(s.Dir, name)); err != nil {
			s.t.Error(err)
		}
	}
	s.Write("hornetd.toml", settings)
}

// TestGuardSignedLeadsHome: such a hornetd is shown, in a bpffs of root's, a way to the
// guard's pins as what a start clears away, or the directory in which they are. It leaves
// them, ends before it has done anything, and the guard goes on refusing.
func TestGuardSignedLeadsHome(t *testing.T) {
	s := guardSigned(t, api.GuardEnforce)
	before, err := os.ReadFile(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	s.Stop()
	guard := filepath.Join(s.BPFFS, "_guard")
	sets, err := os.ReadDir(guard)
	if err != nil || len(sets) != 1 {
		t.Fatalf("sets %v, %v", sets, err)
	}
	set := filepath.Join(guard, sets[0].Name())
	pins := func() string {
		t.Helper()
		out, err := exec.Command("find", s.BPFFS).CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return string(out)
	}
	pinned := pins()
	if !strings.Contains(pinned, set+"/links/guard_bpf") {
		t.Fatal(pinned)
	}
	bind := func(to string) error { // nobody unmounts it before the guard has ended
		if err := errors.Join(os.MkdirAll(to, 0o700), syscall.Mount(set, to, "", syscall.MS_BIND, "")); err != nil {
			return err
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(to, 0); err != nil {
				t.Errorf("unmount %s: %v", to, err)
			}
		})
		return nil
	}
	const collection = "stage-0123456789abcdef"
	roots := t
	for _, tt := range []struct {
		how  string
		show func(root string) error
	}{
		{"linked", func(root string) error {
			return errors.Join(os.Mkdir(root+"/_guard", 0o700), os.Symlink(set, root+"/_guard/stage-1"))
		}},
		{"mounted", func(root string) error { return bind(root + "/_guard/stage-1") }},
		{"older set", func(root string) error {
			return errors.Join(os.MkdirAll(root+"/_guard/set-99", 0o700), os.Symlink(set, root+"/_guard/set-1"))
		}},
		{"directory linked", func(root string) error { return os.Symlink(guard, root+"/_guard") }},
		{"as a stage", func(root string) error { return bind(root + "/" + collection) }},
		{"as a collection", func(root string) error { return bind(root + "/count") }},
		{"the directory itself", nil},
	} {
		whole := t.Run(tt.how, func(t *testing.T) {
			root := guard
			if tt.show != nil {
				root = testenv.BPFFS(roots)
				if err := tt.show(root); err != nil {
					t.Fatal(err)
				}
			}
			s.evil(root)
			defer s.good(before)
			if log := s.fromInit(); !strings.Contains(log, "that is not pinned in "+root+"/_guard") || !strings.Contains(log, "hint: ") {
				t.Errorf("it said: %s", log)
			}
			if now := pins(); now != pinned {
				t.Errorf("of its pins there are left %s", now)
			}
			if out, err := os.ReadDir(root); tt.show != nil && (err != nil || slices.ContainsFunc(out, func(e os.DirEntry) bool { return e.Name() == "evil" })) {
				t.Errorf("%v: there are %v", err, out)
			}
			if out, ok := tool(t, "prog", "load", filepath.Join(s.Manifests, "evil.o"), root+"/loaded"); ok {
				t.Errorf("root loads again: %s", out)
			}
		})
		if !whole {
			break // it may have no guard any more
		}
	}
	s.fromInit()
	stderr, exit := s.do("disarm", s.statement("disarm", "the test ends"), "dev")
	s.wantDone("disarm", stderr, exit)
}

// fromInit has the first process be the parent of a hornetd, which other programs may
// execute, and waits until it answers or has ended. It is ended with the test. What it
// said is returned.
func (s signedHost) fromInit(by ...string) string {
	s.t.Helper()
	pid, log := s.path("pid"), s.path("log")
	os.Remove(pid)
	script := orphaned(`echo $$ >"$0.new"; mv "$0.new" "$0"; exec "$@"`) + ` >"$LOG" 2>&1 </dev/null &`
	cmd := exec.Command("sh", append([]string{"-c", script, pid}, append(by, testdaemon.Binary(s.t, "hornetd"), "--config", s.Config)...)...)
	cmd.Env = append(os.Environ(), "LOG="+log)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	said := func() string {
		b, _ := os.ReadFile(log)
		return string(b)
	}
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		b, err := os.ReadFile(pid)
		if err != nil {
			continue
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			s.t.Fatal(err)
		}
		if syscall.Kill(n, 0) != nil {
			return said()
		}
		if _, err := s.Client().Status(s.t.Context()); err == nil {
			s.t.Cleanup(func() {
				s.disarm() // nobody answers then
				endProcess(n)
			})
			return said()
		}
	}
	s.t.Fatalf("hornetd neither answers nor ends: %s", said())
	return ""
}

// orphaned is a command of the shell that runs a script of bash, with the same arguments,
// when the shell has ended: its parent is the first process then, or who stands in for it.
func orphaned(script string) string {
	const wait = `while read -r _ _ _ parent _ </proc/$$/stat && [ "$parent" = "$SHELL_PID" ]; do sleep 0.02; done; `
	return `SHELL_PID=$$ bash -c '` + wait + script + `' "$0" "$@"`
}

// endInit ends what fromInit started.
func (s signedHost) endInit() {
	s.t.Helper()
	b, err := os.ReadFile(s.path("pid"))
	if err != nil {
		s.t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		s.t.Fatal(err)
	}
	endProcess(n)
}

// endProcess ends one that is nobody's here to wait for.
func endProcess(pid int) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		syscall.Kill(pid, sig)
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if syscall.Kill(pid, 0) != nil {
				return
			}
		}
	}
}
