package signing

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/hornetd/hornetd/internal/cms"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/safefile"
)

// Bounds on a trust store.
const (
	maxPEM   = 256 << 10 // bytes of one file
	maxKeys  = 16        // in one file
	maxFiles = 1024
)

// Trust is a trust store: the keys whose signatures count. Its zero value
// trusts nobody.
type Trust struct {
	dir     string // for messages; empty where it was not read from one
	entries []entry
	list    *Revocations // nil: none
	closed  error        // why nothing is accepted
	left    []error      // files that were left out
}

// entry is one key. Several may share a name, so that a key can be replaced:
// the old and the new certificate in one file.
type entry struct {
	name    string
	file    string
	key     crypto.PublicKey
	cert    *x509.Certificate // nil for a bare public key
	keyIDs  [][]byte          // subject key identifiers it goes by
	problem error             // why nothing it signed is accepted
	keys    []Key             // itself, and those above it up to the one in the store

	chain []*x509.Certificate // from cert to one of the store; nil where cert itself is in it
}

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// ParseTrust makes a trust store from the contents of NAME.pem files, by file
// name. A file holds certificates ("CERTIFICATE") or bare public keys ("PUBLIC
// KEY"), usually one. What is not a key is an error; a key that can sign
// nothing (too weak, made for another use) is kept, so that one bad file does
// not take the others' trust away, and refused with the reason when it signs
// something. Nothing but the file's place makes it trusted: the issuer of a
// certificate in the store is not looked at. See issued for those it issued.
func ParseTrust(files map[string][]byte) (*Trust, error) {
	return parseTrust("", files)
}

// LoadTrust reads the *.pem files of dir, which only root (or this process's
// user) may be able to change; other files are not looked at. A directory that
// does not exist is an empty store. See ParseTrust.
func LoadTrust(dir string) (*Trust, error) {
	t, err := LoadReadable(dir)
	if err == nil && len(t.left) > 0 {
		return nil, t.left[0]
	}
	return t, err
}

// LoadReadable is LoadTrust for when there is no other store to stay with: a file
// that somebody else could change, that cannot be read or is no key is left out.
// The store trusts less than was meant, never more. See Trust.LeftOut.
func LoadReadable(dir string) (*Trust, error) {
	t := &Trust{dir: dir}
	listed, err := safefile.ReadDir(dir, maxFiles)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, fmt.Errorf("trust store: %w", err)
	}
	for _, f := range listed {
		if filepath.Ext(f.Name()) != ".pem" {
			continue
		}
		b, err := safefile.Read(filepath.Join(dir, f.Name()), maxPEM)
		if err != nil {
			err = fmt.Errorf("trust store: %w", err)
		} else {
			err = t.add(f.Name(), b)
		}
		if err != nil {
			t.left = append(t.left, err)
		}
	}
	return t, nil
}

// LeftOut is why files of the store are not in t, one error for each; see
// LoadReadable.
func (t *Trust) LeftOut() []error { return t.left }

func parseTrust(dir string, files map[string][]byte) (*Trust, error) {
	t := &Trust{dir: dir}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if err := t.add(file, files[file]); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// add adds the keys of one file, or none.
func (t *Trust) add(file string, b []byte) error {
	entries, err := parseFile(filepath.Join(t.dir, file), b)
	if err != nil {
		return remedy.With(fmt.Errorf("trust store: %s: %w", filepath.Join(t.dir, file), err),
			"put a PEM certificate (hornetctl keygen makes one) or public key there, or remove the file")
	}
	t.entries = append(t.entries, entries...)
	return nil
}

// parseFile reads the keys of one file.
func parseFile(file string, b []byte) ([]entry, error) {
	name, ok := strings.CutSuffix(filepath.Base(file), ".pem")
	if !ok || !validName.MatchString(name) {
		return nil, errors.New("name is not NAME.pem with a name of letters, digits, dots, dashes and underscores")
	}
	if len(b) > maxPEM {
		return nil, fmt.Errorf("%d bytes: at most %d are read", len(b), maxPEM)
	}
	blocks, err := pemBlocks(b)
	if err != nil {
		return nil, err
	}
	var entries []entry
	for _, block := range blocks {
		e, err := parseEntry(block)
		if err != nil {
			return nil, err
		}
		e.name, e.file = name, file
		entries = append(entries, e)
	}
	return entries, nil
}

// pemBlocks decodes every block and refuses a file in which one did not
// decode: the library steps over those without a word.
func pemBlocks(b []byte) ([]*pem.Block, error) {
	begins := bytes.Count(b, []byte("-----BEGIN"))
	switch {
	case begins == 0:
		return nil, errors.New("no PEM block (-----BEGIN CERTIFICATE-----)")
	case begins > maxKeys:
		return nil, fmt.Errorf("%d PEM blocks: at most %d are read", begins, maxKeys)
	}
	var blocks []*pem.Block
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		blocks = append(blocks, block)
	}
	if len(blocks) != begins {
		return nil, fmt.Errorf("%d of %d PEM blocks are damaged", begins-len(blocks), begins)
	}
	return blocks, nil
}

func parseEntry(block *pem.Block) (entry, error) {
	switch {
	case strings.HasSuffix(block.Type, "PRIVATE KEY"):
		return entry{}, errors.New("holds a private key, which does not belong on this host")
	case block.Type == "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return entry{}, fmt.Errorf("certificate: %w", err)
		}
		return certificateEntry(cert)
	case block.Type == "PUBLIC KEY":
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return entry{}, fmt.Errorf("public key: %w", err)
		}
		ids, err := derivedKeyIDs(block.Bytes)
		return entry{key: key, keyIDs: ids, problem: cms.CheckKey(key), keys: []Key{keyOf(key, ids)}}, err
	}
	return entry{}, fmt.Errorf("PEM block %.40q: a certificate or public key is needed", block.Type)
}

func certificateEntry(cert *x509.Certificate) (entry, error) {
	derived, err := derivedKeyIDs(cert.RawSubjectPublicKeyInfo)
	ids := derived
	if len(cert.SubjectKeyId) > 0 {
		ids = [][]byte{cert.SubjectKeyId}
	}
	self := keyOf(cert.PublicKey, slices.Concat(ids, derived))
	self.Certificate = fmt.Sprintf("%x", sha256.Sum256(cert.Raw))
	return entry{key: cert.PublicKey, cert: cert, keyIDs: ids, problem: maySign(cert), keys: []Key{self}}, err
}

func keyOf(key crypto.PublicKey, ids [][]byte) Key {
	var k Key
	if spki, err := x509.MarshalPKIXPublicKey(key); err == nil { // not the certificate's own, which may be encoded in another way
		k.SHA256 = fmt.Sprintf("%x", sha256.Sum256(spki))
	}
	for _, id := range ids {
		if s := fmt.Sprintf("%x", id); !slices.Contains(k.IDs, s) {
			k.IDs = append(k.IDs, s)
		}
	}
	return k
}

// derivedKeyIDs are the identifiers of a key that has no certificate to name
// one: the SHA-1 of its bits (RFC 5280, 4.2.1.2: OpenSSL's), and the first 160
// bits of their SHA-256 (RFC 7093, section 2: Go's). They only choose a key.
func derivedKeyIDs(spki []byte) ([][]byte, error) {
	var info, bits []byte
	s := cryptobyte.String(spki)
	if !s.ReadASN1((*cryptobyte.String)(&info), der.SEQUENCE) {
		return nil, errors.New("public key is malformed")
	}
	s = info
	if !s.SkipASN1(der.SEQUENCE) || !s.ReadASN1BitStringAsBytes(&bits) {
		return nil, errors.New("public key is malformed")
	}
	first, second := sha256.Sum256(bits), sha1.Sum(bits)
	return [][]byte{first[:20], second[:]}, nil
}

// maySign says why nothing that cert's key signed is accepted, or nil.
func maySign(cert *x509.Certificate) error {
	if cert.PublicKey == nil { // crypto/x509 does not know it
		return errors.New("certificate's key is of a kind that is not accepted, RSA (for any padding), ECDSA and Ed25519 are")
	}
	if err := cms.CheckKey(cert.PublicKey); err != nil {
		return err
	}
	if len(cert.UnhandledCriticalExtensions) > 0 {
		return fmt.Errorf("certificate has a critical extension that is not understood (%v)", cert.UnhandledCriticalExtensions[0])
	}
	if cert.KeyUsage != 0 && cert.KeyUsage&(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) == 0 {
		return errors.New("certificate's key usage has no digitalSignature")
	}
	if len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) > 0 &&
		!slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageCodeSigning) && !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return errors.New("certificate's extended key usage has no codeSigning")
	}
	return nil
}

// named reports whether m says that this key made it.
func (e entry) named(m *cms.Message) bool {
	return e.cert != nil && m.Names(e.cert) || slices.ContainsFunc(e.keyIDs, m.NamesKeyID)
}

func (e entry) signer() Signer {
	s := Signer{Name: e.name, KeyID: e.keys[0].IDs[0], KeySHA256: e.keys[0].SHA256, Algorithm: algorithmOf(e.key), Chain: e.keys}
	if e.cert != nil {
		s.Subject, s.CA = e.cert.Subject.String(), e.authority()
		from, until := e.validity()
		s.NotBefore, s.NotAfter = from.NotBefore, until.NotAfter
	}
	if e.problem != nil && !s.CA {
		s.Problem = e.problem.Error()
	}
	return s
}

func algorithmOf(key crypto.PublicKey) string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return "unknown"
}

// Signers lists the store's keys, by name.
func (t *Trust) Signers() []Signer {
	signers := make([]Signer, len(t.entries))
	for i, e := range t.entries {
		signers[i] = e.signer()
		if reason := t.list.revokes(e.name, e.keys); reason != "" {
			signers[i].Problem, signers[i].Revoked = reason, true
		}
	}
	return signers
}

// Narrowed returns t without the keys that are not in next under the same name and
// in the same certificate, and those keys.
func (t *Trust) Narrowed(next *Trust) (narrowed *Trust, gone []Signer) {
	narrowed = &Trust{dir: t.dir, list: t.list, closed: t.closed, left: t.left}
	for _, e := range t.entries {
		if slices.ContainsFunc(next.entries, e.stands) {
			narrowed.entries = append(narrowed.entries, e)
		} else {
			gone = append(gone, e.signer())
		}
	}
	return narrowed, gone
}

// stands reports whether other is the same key, in the same certificate, under
// the same name.
func (e entry) stands(other entry) bool {
	return e.name == other.name && e.keys[0].SHA256 == other.keys[0].SHA256 && e.keys[0].Certificate == other.keys[0].Certificate
}

// file is where a certificate for name belongs.
func (t *Trust) file(name string) string {
	return filepath.Join(cmp.Or(t.dir, "the trust store"), name+".pem")
}

// String describes the store for messages: where it is and who is in it.
func (t *Trust) String() string {
	where := strings.TrimSpace("the trust store " + t.dir)
	if len(t.entries) == 0 {
		return where + " (empty)"
	}
	var names []string
	for _, e := range t.entries {
		names = append(names, e.name)
	}
	names = slices.Compact(names)
	if more := len(names) - 8; more > 0 {
		return fmt.Sprintf("%s (%s and %d more)", where, quote(names[:8]), more)
	}
	return fmt.Sprintf("%s (%s)", where, quote(names))
}
