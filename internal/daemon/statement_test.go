package daemon

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/audit"
	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/signing"
)

// A statement is good once, for what it is for, until it is too old, and until what
// it was for has changed.
func TestStatements(t *testing.T) {
	now := 100 * time.Hour
	var l statements
	refused := func(what, text string, act api.GuardAct, now time.Duration, like string) {
		t.Helper()
		_, err := l.find(text, act, now)
		if err == nil || !strings.Contains(err.Error(), like) || !strings.HasSuffix(remedy.Of(err), "hornetctl guard statement "+string(act)+" --reason TEXT") {
			t.Errorf("%s: %v (%s), want %q", what, err, remedy.Of(err), like)
		}
	}
	s := &statement{act: api.ActDisarm, text: "a", ends: now + statementLife}
	l.give(s)
	l.give(&statement{act: api.ActTrust, text: "b", ends: now + statementLife})
	refused("not given out", "c", api.ActDisarm, now, "not given it out")
	refused("part of it", "", api.ActDisarm, now, "not given it out")
	refused("another act", "b", api.ActDisarm, now, "it is for trust")
	refused("too late", "a", api.ActDisarm, now+statementLife+time.Second, "it was good until")
	if _, err := l.find("c", api.ActEnroll, now); !strings.HasSuffix(remedy.Of(err), "statement enroll FILE --reason TEXT") {
		t.Errorf("hint %q", remedy.Of(err))
	}
	found, err := l.find("a", api.ActDisarm, now+statementLife)
	if err != nil || found != s {
		t.Fatalf("%v, %v", found, err)
	}
	if _, err := l.find("a", api.ActDisarm, now); err != nil {
		t.Errorf("looked for, not used: %v", err)
	}
	l.use(s)
	refused("again", "a", api.ActDisarm, now, "used already")
	for i := range mostStatements {
		l.give(&statement{act: api.ActAudit, text: fmt.Sprint(i), ends: now + statementLife})
	}
	refused("one too many ago", "b", api.ActTrust, now, "not given it out")
	if _, err := l.find("0", api.ActAudit, now); err != nil {
		t.Error(err)
	}
	l.forget()
	refused("forgotten", "0", api.ActAudit, now, "not given it out")
}

// A signed statement that waits for its turn is asked again when that has come: its hour
// may be over by then, another may have used it, and whoever signed it may be nobody.
func TestStatementWaits(t *testing.T) {
	keyPEM, certPEM, err := signing.Keygen("root", "")
	if err != nil {
		t.Fatal(err)
	}
	store, err := signing.ParseTrust(map[string][]byte{"root.pem": certPEM})
	if err != nil {
		t.Fatal(err)
	}
	key, keyErr := signing.ParseKey(keyPEM)
	cert, certErr := signing.ParseCertificate(certPEM)
	if err := errors.Join(keyErr, certErr); err != nil {
		t.Fatal(err)
	}
	sealed := seals{armed: true, strict: true, signed: true, found: map[[32]byte]uint32{rootSeal(store.Signers()[0]): sealRoot}}
	for _, tt := range []struct {
		what  string
		while func(d *Daemon, s *statement)
		want  string
	}{
		{"nothing", func(*Daemon, *statement) {}, "no guard is in force"}, // as there is no guard here
		{"its hour", func(d *Daemon, s *statement) {
			d.statements.mu.Lock()
			defer d.statements.mu.Unlock()
			s.ends = 0
		}, "it was good until"},
		{"another's use", func(d *Daemon, s *statement) { d.statements.use(s) }, "used already"},
		{"another guard", func(d *Daemon, _ *statement) { d.statements.forget() }, "has not given it out"},
		{"another trust store", func(d *Daemon, _ *statement) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.trust = new(signing.Trust)
		}, "no root that is sealed"},
		{"other seals", func(d *Daemon, _ *statement) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.seals = seals{armed: true}
		}, "no root that is sealed"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			d, all := newRecorder(t)
			d.owner = newOwner(1, verifierJobs{1, 1})
			defer d.owner.stop()
			d.trust, d.seals = store, sealed
			now, err := sinceBoot()
			if err != nil {
				t.Fatal(err)
			}
			s := &statement{act: api.ActDisarm, reason: "a test", text: signing.StatementHeader + tt.what, until: time.Now(), ends: now + time.Hour}
			d.statements.give(s)
			signature, err := signing.Sign([]byte(s.text), key, cert)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			err = d.owner.do(func() error {
				go func() {
					_, err := d.Signed(Peer{}, api.SignedRequest{Act: s.act, Statement: s.text, Signature: signature})
					done <- err
				}()
				for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
					d.owner.mu.Lock()
					waits := len(d.owner.first)
					d.owner.mu.Unlock()
					if waits == 1 {
						break
					}
					if time.Now().After(deadline) {
						return errors.New("it does not wait for its turn")
					}
				}
				tt.while(d, s)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := <-done; err == nil || !strings.Contains(err.Error(), tt.want) || remedy.Of(err) == "" {
				t.Errorf("while it waited: %v (%s), want %q and a remedy", err, remedy.Of(err), tt.want)
			}
			records := all()
			if n := len(records); n != 2 || records[0].Phase != audit.Intent || records[1].Phase != audit.Outcome || !strings.Contains(records[1].Error, tt.want) {
				t.Errorf("on record: %+v", records)
			}
		})
	}
}

// What root says for a reason or a file's name is in its line, and makes no other.
func FuzzStatementText(f *testing.F) {
	for _, reason := range []string{"why", "a\nact      audit", "\"\r\n", "\u2028\u202e", "\xff\x00\x1b[2J", strings.Repeat("é", 100)} {
		f.Add(reason)
	}
	line := regexp.MustCompile(`^(act|reason|host|machine|boot|guard|until|nonce|) *[ -~]+$`)
	f.Fuzz(func(t *testing.T, said string) {
		s := &statement{act: api.ActDisarm, reason: said, until: time.Now()}
		text := statementText(s, []string{"end it"}, guardPlace{said, "audit"})
		rest, ok := strings.CutPrefix(text, signing.StatementHeader)
		if !ok {
			t.Fatalf("it begins otherwise: %q", text)
		}
		lines := strings.Split(rest, "\n")
		if len(lines) != 12 || lines[1] != "" || lines[11] != "" {
			t.Fatalf("%d lines:\n%s", len(lines), text)
		}
		for _, l := range lines[2:11] {
			if !line.MatchString(l) {
				t.Errorf("line %q", l)
			}
		}
		if again := statementText(s, nil, guardPlace{}); again[strings.LastIndex(again, "nonce"):] == text[strings.LastIndex(text, "nonce"):] {
			t.Error("the same nonce twice")
		}
	})
}

// What decides changes the settings' digest; what does not, does not; and the same
// file says the same.
func TestSettings(t *testing.T) {
	base, err := config.Parse("f", nil)
	if err != nil {
		t.Fatal(err)
	}
	base.Digest = [32]byte{1}
	same := func(c config.Config) bool {
		for _, a := range settingsOf(base) {
			for _, b := range settingsOf(c) {
				if a == b {
					return true
				}
			}
		}
		return false
	}
	for text, want := range map[string]bool{
		"[api]\nchanges_per_user = 3": true, "[log]\nlevel = 'warn'": true, "[limits]\nmaps = 4": true, "[guard]\nmode = 'off'": true,
		"[paths]\ntrust = '/t'": false, "[trust]\nroots = ['a']": false, "[guard]\ndisarm = 'reboot'": false,
		"[signers.a]\nattach = []": false, "[manifests]\nremoved = 'keep'": false, "[guard]\nallow = [{ cgroup = '/a', signals = true }]": false,
		"[guard]\nallow = [{ executable = '/a', sha256 = '" + strings.Repeat("00", 32) + "', signals = true }]": false,
	} {
		c, err := config.Parse("f", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		c.Digest = [32]byte{2}
		if got := same(c); got != want {
			t.Errorf("%q: the same: %v, want %v", text, got, want)
		}
		if c.Digest = base.Digest; !same(c) {
			t.Errorf("%q: the same file says other things", text)
		}
	}
}
