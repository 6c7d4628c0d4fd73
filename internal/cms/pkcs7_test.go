package cms

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/smallstep/pkcs7"
)

// errUnread: the other library does not read this kind of message at all.
var errUnread = errors.New("not read by smallstep/pkcs7")

// otherVerify asks github.com/smallstep/pkcs7 what accept is asked.
func otherVerify(b, content []byte, cert *x509.Certificate) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errUnread, r)
		}
	}()
	p7, err := pkcs7.Parse(bytes.Clone(b))
	if err != nil || len(p7.Signers) == 0 { // one named by its key identifier is not seen
		return errUnread
	}
	p7.Content, p7.Certificates = content, []*x509.Certificate{cert} // whose key counts is not the message's word
	err = p7.Verify()
	var outside *pkcs7.SigningTimeNotValidError // package signing has the validity, of now
	if err != nil && (strings.Contains(err.Error(), "pkcs7: unsupported algorithm") || errors.As(err, &outside)) {
		return errUnread
	}
	return err
}

// stricter are the reasons for which what the other library accepts is refused
// here: parts of our errors. Nothing else may be.
var stricter = map[string]string{
	"is malformed":                   "DER only, no BER; nothing optional that is missing",
	"are malformed":                  "the same",
	"something follows":              "no byte that nobody reads",
	"is not accepted":                "SHA-1 and other digests",
	"neither NULL nor absent":        "parameters of digests are looked at",
	"parameters are not NULL":        "RFC 3370, 3.2",
	"parameters where it takes none": "RFC 5754, 3.3",
	"but the signer names":           "an algorithm's own digest is the signer's",
	"digestAlgorithms names":         "the digest is named twice, and is one",
	"more digest algorithms":         "one digest for one signer",
	"both must be":                   "versions follow from the rest",
	"content is inside":              "the signature is detached",
	"what is signed is":              "data is signed, no other type",
	"contentType attribute":          "there, and data",
	"has no value":                   "attributes have values",
	"more than one value":            "an attribute that is read has one value",
	"not in DER order":               "the attributes are signed in the order they stand in",
	"algorithms are not those":       "RFC 6211",
	"unsigned attributes":            "no key covers them",
	"certificates are an empty set":  "nothing empty that is optional",
	"more than one signer":           "one signer",
	notDER:                           "what is signed, and a name, is compared as it stands",
}

// notDER is the reason where an element that is not read here, a name or the
// value of an unknown attribute, has a length that DER does not have: the other
// library writes the message anew before it looks at it.
const notDER = "BER inside"

// isDER says whether all lengths in b are as DER has them.
func isDER(b []byte) (ok bool) {
	defer func() { ok = recover() == nil && ok }()
	root, rest := parseNode(b)
	return len(rest) == 0 && bytes.Equal(root.encode(), b)
}

// differences counts, over all calls of compare.
type differences struct {
	sync.Mutex
	agreed, unread int
	stricter       map[string]int
}

// compare returns an error where the other library disagrees with err, our word
// on a message, for no reason that is named.
func (d *differences) compare(err error, b, content []byte, cert *x509.Certificate) error {
	other := otherVerify(b, content, cert)
	d.Lock()
	defer d.Unlock()
	switch {
	case errors.Is(other, errUnread):
		d.unread++
	case (err == nil) == (other == nil):
		d.agreed++
	case err == nil:
		return fmt.Errorf("accepted here, and not by smallstep/pkcs7: %w", other)
	default:
		reason := ""
		for part := range stricter {
			if strings.Contains(err.Error(), part) {
				reason = part
			}
		}
		if reason == "" && !isDER(b) {
			reason = notDER
		}
		if reason == "" {
			return fmt.Errorf("smallstep/pkcs7 accepts it, and the reason is not in the list: %w", err)
		}
		if d.stricter == nil {
			d.stricter = map[string]int{}
		}
		d.stricter[reason]++
	}
	return nil
}

func (d *differences) log(t *testing.T) {
	t.Helper()
	t.Logf("smallstep/pkcs7 agrees on %d messages, does not read %d", d.agreed, d.unread)
	for _, part := range slices.Sorted(maps.Keys(d.stricter)) {
		t.Logf("%7d accepted by it alone: %q (%s)", d.stricter[part], part, stricter[part])
	}
}

// TestAgainstPKCS7 has both read good messages, and changed ones, always the
// same with one seed; with HORNET_SOAK=1 they are 200,000.
func TestAgainstPKCS7(t *testing.T) {
	count := 20_000
	if os.Getenv("HORNET_SOAK") == "1" {
		count = 200_000
	}
	all := samples(t)
	ec := ecKey()
	for _, p := range []*parts{plain(ec), attributed(ec), plain(rsaKey()), attributed(rsaKey())} {
		k := ec
		if bytes.Contains(p.signer, rsaKey().cert.SubjectKeyId) {
			k = rsaKey()
		}
		p.version, p.infoVersion, p.signer = integer(1), integer(1), issuerAndSerial(k)
		all = append(all, sample{"issuer", p.message(t, k), content, k.cert})
	}
	var d differences
	for _, s := range all {
		if err := d.compare(accept(s.message, s.content, s.cert), s.message, s.content, s.cert); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
	}
	if d.agreed < 6 {
		t.Errorf("it reads only %d of %d good messages", d.agreed, len(all))
	}
	for i := range count {
		r := rand.New(rand.NewPCG(7, uint64(i)))
		s := all[r.IntN(len(all))]
		b := mutant(r, s.message)
		if err := d.compare(accept(b, s.content, s.cert), b, s.content, s.cert); err != nil {
			t.Errorf("%s, mutant %d: %v\n%x", s.name, i, err, b)
		}
	}
	d.log(t)
}

// mutant changes the bytes of a message, or its structure.
func mutant(r *rand.Rand, message []byte) []byte {
	b := bytes.Clone(message)
	at := r.IntN(len(b))
	switch r.IntN(6) {
	case 0:
		b[at] ^= 1 << r.IntN(8)
		return b
	case 1:
		b[at] = byte(r.Uint32())
		return b
	}
	root, _ := parseNode(b)
	var nodes []*node
	top := &node{children: []*node{root}}
	top.walk(func(parent *node, i int) { nodes = append(nodes, parent.children[i]) })
	n := nodes[r.IntN(len(nodes))]
	if len(n.children) == 0 || r.IntN(2) == 0 {
		var try []func()
		changeNode(n, func(string) {
			now := *n
			try = append(try, func() { *n = now })
		})
		try[r.IntN(len(try))]()
		return root.encode()
	}
	all := changes(n.children, r.IntN(len(n.children)))
	names := slices.Sorted(maps.Keys(all))
	n.children = all[names[r.IntN(len(names))]]
	return root.encode()
}
