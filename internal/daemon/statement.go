package daemon

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/internal/remedy"
	lsm "github.com/hornetd/hornetd/lsm-module"
	"github.com/hornetd/hornetd/signing"
)

// Where disarm = "signed" root cannot end the guard, but ask hornetd for a statement
// that says what is to be done; who has the key of a root signs it, elsewhere; and
// hornetd does it. A statement is good once, for the process that gave it out: it is
// known by being, byte for byte, what was given out. Nothing in it is parsed.
const (
	statementLife  = time.Hour
	mostStatements = 64
)

// statement is one that was given out.
type statement struct {
	act    api.GuardAct
	reason string
	text   string
	until  time.Time     // as is said
	ends   time.Duration // as counts: since boot, by a clock that nobody sets and that goes on while the machine sleeps
	used   bool

	sealed map[[32]byte]uint32 // act trust: what is to be sealed
	file   string              // act enroll, and the file's SHA-256
	digest [32]byte
}

// sinceBoot counts while the machine sleeps, too.
func sinceBoot() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("guard: clock: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// statements are those that were given out, the oldest first.
type statements struct {
	mu  sync.Mutex
	all []*statement
}

func (l *statements) give(s *statement) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.all) == mostStatements {
		l.all = slices.Delete(l.all, 0, 1)
	}
	l.all = append(l.all, s)
}

// forget has none of them be good any more.
func (l *statements) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = nil
}

// find returns the one that says text, if it is good at now, and for act.
func (l *statements) find(text string, act api.GuardAct, now time.Duration) (*statement, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.all, func(s *statement) bool { return s.text == text })
	if i < 0 {
		return nil, remedy.With(errors.New("statement: this hornetd has not given it out since its start, or what it was for has changed"), "ask it for one: %s", asking(act, "FILE"))
	}
	return l.all[i], l.all[i].good(act, now)
}

// use has s not be good again.
func (l *statements) use(s *statement) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.used = true
}

// asking is the command that asks for a statement.
func asking(act api.GuardAct, file string) string {
	command := "hornetctl guard statement " + string(act)
	if act == api.ActEnroll {
		command += " " + file
	}
	return command + " --reason TEXT"
}

// rootCommand is what does the same where root's word counts.
func rootCommand(act api.GuardAct, file string) string {
	switch act {
	case api.ActDisarm:
		return "hornetctl guard disarm --reason TEXT"
	case api.ActEnroll:
		return "hornetctl guard enroll " + file
	case api.ActTrust:
		return "hornetctl reload, for keys; for hornetd.toml restart hornetd, then hornetctl guard audit or enforce"
	}
	return "hornetctl guard " + string(act)
}

func (s *statement) good(act api.GuardAct, now time.Duration) error {
	again := func(format string, args ...any) error {
		return remedy.With(fmt.Errorf("statement: "+format, args...), "ask for another: %s", asking(act, "FILE"))
	}
	switch {
	case s.act != act:
		return again("it is for %s, not for %s", s.act, act)
	case s.used:
		return again("it was used already")
	case now > s.ends:
		return again("it was good until %s", s.until.UTC().Format(time.RFC3339))
	}
	return nil
}

// Statement gives out what a root may sign.
func (d *Daemon) Statement(who Peer, req api.StatementRequest) (api.Statement, error) {
	err := rootOnly(who, "guard statement")
	if err == nil {
		err = checkStatement(req)
	}
	if err != nil {
		return api.Statement{}, d.refuse(who, verbGuard, "", err)
	}
	var s *statement
	err = d.owner.do(func() (err error) {
		s, err = d.newStatement(req)
		return err
	})
	if err != nil {
		return api.Statement{}, d.refuse(who, verbGuard, "", err)
	}
	d.statements.give(s)
	return api.Statement{Text: s.text, Until: s.until}, nil
}

func checkStatement(req api.StatementRequest) error {
	if err := checkAct(req.Act); err != nil {
		return err
	}
	if req.Reason == "" || len(req.Reason) > maxReason {
		return api.Errorf(api.KindBadRequest, "guard statement: the reason has %d bytes, must have 1 to %d", len(req.Reason), maxReason).
			WithHint("say in a sentence why: whoever signs reads it, and it stands in the audit log")
	}
	if isEnroll := req.Act == api.ActEnroll; isEnroll != (req.File != "") || isEnroll && !filepath.IsAbs(req.File) {
		return api.Errorf(api.KindBadRequest, "file %.200q: want an absolute path with act enroll, and none otherwise", req.File)
	}
	return nil
}

func checkAct(act api.GuardAct) error {
	if slices.Contains(api.GuardActs(), act) {
		return nil
	}
	return api.Errorf(api.KindBadRequest, "act %.80q: no such act", act).WithHint("there are %v", api.GuardActs())
}

// newStatement runs on the owner's thread.
func (d *Daemon) newStatement(req api.StatementRequest) (*statement, error) {
	switch {
	case d.guard.force == nil:
		return nil, d.notInForce()
	case !d.seals.strict:
		return nil, remedy.With(api.Errorf(api.KindConflict, `guard: statement: none is needed: it was armed with disarm = "root"`), "%s", rootCommand(req.Act, req.File))
	case !d.seals.signed:
		return nil, d.errSealed("no signature counts")
	}
	now, err := sinceBoot()
	if err != nil {
		return nil, err
	}
	s := &statement{act: req.Act, reason: req.Reason, until: time.Now().Add(statementLife), ends: now + statementLife}
	var means []string
	switch req.Act {
	case api.ActDisarm:
		means = []string{"end the guard: whoever is root on this host loads eBPF as they like"}
	case api.ActAudit:
		means = []string{"refuse nothing any more: only tell of who loads eBPF past hornetd"}
	case api.ActEnroll:
		means, err = s.toEnroll(req.File)
	case api.ActTrust:
		means, err = d.toTrust(s)
	}
	if err != nil {
		return nil, err
	}
	status, err := d.guard.force.Status()
	if err != nil {
		return nil, err
	}
	s.text = statementText(s, means, guardPlace{d.guardDir(), status.Mode.String()})
	if len(s.text) > api.MaxStatementBytes {
		return nil, remedy.With(api.Errorf(api.KindLimit, "guard: statement: %d bytes, at most %d are signed", len(s.text), api.MaxStatementBytes), "add fewer keys at once")
	}
	return s, nil
}

// guardPlace is where a guard is, and what it does.
type guardPlace struct{ dir, mode string }

// statementText is what is signed: ASCII, one thing a line. It is for whoever signs
// it; what is not hornetd's own words is quoted.
func statementText(s *statement, means []string, at guardPlace) string {
	var b strings.Builder
	b.WriteString(signing.StatementHeader)
	b.WriteString("Whoever signs this has the hornetd that wrote it do what follows, once.\n\n")
	line := func(key, value string) { fmt.Fprintf(&b, "%-8s %s\n", key, value) }
	line("act", string(s.act))
	for _, m := range means {
		line("", m)
	}
	host, _ := os.Hostname() // what cannot be read is empty: the nonce decides
	line("reason", strconv.QuoteToASCII(s.reason))
	line("host", strconv.QuoteToASCII(host))
	line("machine", oneLine("/etc/machine-id"))
	line("boot", oneLine("/proc/sys/kernel/random/boot_id"))
	line("guard", strconv.QuoteToASCII(at.dir)+", "+at.mode)
	line("until", s.until.UTC().Format(time.RFC3339))
	line("nonce", rand.Text())
	return b.String()
}

func oneLine(path string) string {
	b, _ := os.ReadFile(path)
	return strconv.QuoteToASCII(strings.TrimSpace(string(b[:min(len(b), 64)])))
}

func (s *statement) toEnroll(file string) ([]string, error) {
	f, err := openExecutable(file)
	if err != nil {
		return nil, notExecutable(err)
	}
	defer f.Close()
	if err := besideOurs(f); err != nil {
		return nil, err
	}
	if s.digest, err = lsm.DigestOf(f); err != nil {
		return nil, notExecutable(err)
	}
	s.file = file
	return []string{"have this executable be hornetd where systemd starts it as such",
		fmt.Sprintf("file %s, SHA-256 %x", strconv.QuoteToASCII(file), s.digest)}, nil
}

// besideOurs refuses a file that is on another file system than hornetd's own executable:
// one that root serves (FUSE, an image) has other contents for whoever executes it than
// for whoever asks for the digest.
func besideOurs(f *os.File) error {
	var own, other unix.Stat_t
	if err := errors.Join(unix.Stat("/proc/self/exe", &own), unix.Fstat(int(f.Fd()), &other)); err != nil {
		return notExecutable(err)
	}
	if own.Dev == other.Dev {
		return nil
	}
	exe, _ := os.Readlink("/proc/self/exe")
	return remedy.With(fmt.Errorf("guard: enroll: %s: it is on another file system than hornetd", f.Name()), "install it beside %s", exe)
}

func notExecutable(err error) error {
	return remedy.With(fmt.Errorf("guard: enroll: %w", err), "name the new hornetd's own file, where it is to be started from")
}

// toTrust says what of the trust store and hornetd.toml, as they are on disk, is not
// sealed yet, and notes what is to be.
func (d *Daemon) toTrust(s *statement) ([]string, error) {
	cfg, err := config.Read(d.cfg.File)
	if err != nil {
		return nil, err
	}
	trust, err := readStore(cfg.Paths.Trust) // which may be another from the next start on
	if err != nil {
		return nil, err
	}
	s.sealed = map[[32]byte]uint32{}
	sealKeys(s.sealed, trust, cfg.Trust.Roots)
	if cfg.Guard.Disarm == config.DisarmSigned && count(s.sealed, sealRoot) == 0 {
		return nil, noRoot(cfg)
	}
	means := []string{"have what is new in the trust store and hornetd.toml count"}
	kept := 0
	for _, signer := range trust.Signers() {
		isRoot := s.sealed[rootSeal(signer)] == sealRoot && slices.Contains(cfg.Trust.Roots, signer.Name)
		if d.seals.found[keySeal(signer)] == sealKey {
			kept++
			if !isRoot || d.seals.found[rootSeal(signer)] == sealRoot {
				continue
			}
		}
		signs := "signs objects"
		if isRoot {
			signs = "signs objects, revocation lists and statements such as this"
		}
		means = append(means, fmt.Sprintf("key %q: %s, SHA-256 of the key %s, of the certificate %s: %s",
			signer.Name, signer.Algorithm, signer.KeySHA256, cmp.Or(signer.Chain[0].Certificate, "(none)"), signs))
	}
	if gone := count(d.seals.found, sealKey) - kept; gone > 0 {
		means = append(means, fmt.Sprintf("and %d keys or certificates that are not there any more not count again", gone))
	}
	was, whole := uint32(0), true
	for _, sum := range settingsOf(cfg) {
		was = max(was, d.seals.found[sum])
		whole = whole && d.seals.found[sum] != 0
		s.sealed[sum] = sealNext
	}
	if was != 0 && !whole { // a hornetd that has more settings knows it by its digest alone
		means = append(means, fmt.Sprintf("hornetd.toml %s, SHA-256 %x, is another file that says the same", strconv.QuoteToASCII(cfg.File), cfg.Digest))
	}
	switch {
	case was == 0:
		means = append(means, fmt.Sprintf("from its next start on hornetd.toml %s, SHA-256 %x, with disarm = %q and the roots %q",
			strconv.QuoteToASCII(cfg.File), cfg.Digest, cfg.Guard.Disarm, cfg.Trust.Roots))
	case was == sealSettings && count(d.seals.found, sealNext) > 0:
		means = append(means, "and the hornetd.toml that was signed for the next start not count")
	}
	if len(means) == 1 {
		return nil, remedy.With(api.Errorf(api.KindConflict, "guard: statement: the trust store and hornetd.toml are what is sealed"), "put what is to count in place first")
	}
	for sum, number := range d.seals.found { // how it is now stays
		if number != sealKey && number != sealRoot && number != sealNext {
			s.sealed[sum] = number
		}
	}
	return means, nil
}

// Signed does what a root signed. It is decided twice: at once, so that who waits has a
// chance, and when its turn has come, as what was done meanwhile may be another's statement.
func (d *Daemon) Signed(who Peer, req api.SignedRequest) (api.Guard, error) {
	s, signer, err := d.signedStatement(who, req)
	if err != nil {
		return api.Guard{}, d.refuse(who, verbGuard, "", err)
	}
	return d.changeGuard(who, fmt.Sprintf("%s: %s: signed by %s", s.act, s.reason, signerText(signer)), func() error {
		s, _, err := d.signedStatement(who, req)
		if err != nil {
			return err
		}
		if err := d.doSigned(s); err != nil {
			return err // it is good for another time, when what was in the way is not there any more
		}
		d.statements.use(s)
		return nil
	})
}

// doSigned runs on the owner's thread.
func (d *Daemon) doSigned(s *statement) error {
	if d.guard.force == nil {
		return d.notInForce()
	}
	switch s.act {
	case api.ActDisarm:
		return d.setGuard(wish{mode: lsm.Off, signed: true})
	case api.ActAudit:
		return d.setGuard(wish{mode: lsm.Audit, signed: true})
	case api.ActEnroll:
		return d.enrollSigned(s)
	case api.ActTrust:
		return d.sealAnew(s.sealed)
	}
	return fmt.Errorf("guard: internal error: act %q", s.act)
}

// signedStatement decides whether what a client brings is to be done.
func (d *Daemon) signedStatement(who Peer, req api.SignedRequest) (*statement, signing.Signer, error) {
	if err := errors.Join(rootOnly(who, "guard signed"), checkAct(req.Act)); err != nil {
		return nil, signing.Signer{}, err
	}
	now, err := sinceBoot()
	if err != nil {
		return nil, signing.Signer{}, err
	}
	s, err := d.statements.find(req.Statement, req.Act, now)
	if err != nil {
		return nil, signing.Signer{}, asSignature(err)
	}
	trust := d.trusted()
	roots := d.sealedRoots(trust)
	if len(roots) == 0 {
		return nil, signing.Signer{}, asSignature(remedy.With(errors.New("statement: no root that is sealed in the guard is in the trust store"), "put its key back, then hornetctl reload"))
	}
	v, err := trust.VerifyStatement([]byte(req.Statement), req.Signature, roots)
	if err != nil {
		return nil, signing.Signer{}, asSignature(err)
	}
	d.mu.RLock()
	sealed := d.seals.signed && d.seals.found[rootSeal(v.Signer())] == sealRoot
	d.mu.RUnlock()
	if !sealed {
		return nil, signing.Signer{}, asSignature(remedy.With(fmt.Errorf("statement: %s is no root that is sealed in the guard", signerText(v.Signer())), "have one sign it that was in [trust] roots when the guard was armed"))
	}
	return s, v.Signer(), nil
}

// sealedRoots are the entries of a trust store whose statements count. What [trust] roots
// said when hornetd started may not be what a root has signed since.
func (d *Daemon) sealedRoots(trust *signing.Trust) (names []string) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, s := range trust.Signers() {
		if d.seals.signed && d.seals.found[rootSeal(s)] == sealRoot {
			names = append(names, s.Name)
		}
	}
	return names
}

// enrollSigned enrolls a file while it is what was signed. A guard of an older build may
// not know to wait with it until that is certain.
func (d *Daemon) enrollSigned(s *statement) error {
	status, err := d.guard.force.Status()
	if err != nil {
		return err
	}
	if !status.Current {
		return remedy.With(errors.New("guard: enroll: what is in force is of another build of hornetd"), "hornetctl guard %s, then again", max(status.Mode, lsm.Audit))
	}
	f, err := openExecutable(s.file)
	if err != nil {
		return notExecutable(err)
	}
	defer f.Close()
	same := func() error {
		sum, err := lsm.DigestOf(f)
		if err == nil && sum != s.digest {
			err = remedy.With(fmt.Errorf("guard: enroll: %s: its SHA-256 is %x, and %x was signed", s.file, sum, s.digest), "put back what it was, or have this signed: %s", asking(api.ActEnroll, s.file))
		}
		return err
	}
	if err := besideOurs(f); err != nil {
		return err
	}
	if err := same(); err != nil { // before anything of the guard's is touched
		return err
	}
	_, err = d.guard.force.EnrollIf(f, same)
	return errors.Join(err, d.readExecutables())
}

// sealAnew seals other keys and settings in the guard.
func (d *Daemon) sealAnew(sealed map[[32]byte]uint32) error {
	s, err := d.guard.force.Status()
	if err != nil {
		return err
	}
	if s.Mode == lsm.Enforce && !s.Enforces {
		return remedy.With(errors.New("guard: it has fallen back to audit"), "hornetctl guard enforce, then again")
	}
	was := d.guard.force
	err = d.upgradeGuard(s.Mode, s.Confirm, sealed)
	if d.guard.force != was {
		d.statements.forget() // what they say of the trust store is not so any more
	}
	return err
}
