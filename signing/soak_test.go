package signing

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hornetd/hornetd/manifest"
)

// soaked is a set of files that Verify accepts, one or more of which are to be
// changed, and a second set by the same signer to mix them with.
type soaked struct {
	name        string
	files, more [][]byte
	kinds       []map[string]mutation // of each file; nil: it stays
	// verify admits the files as the daemon does. It returns what would be
	// loaded or obeyed, and whose word that was and on what.
	verify func(files [][]byte) (meaning string, err error)
	signed []string // the meanings that were signed
}

// mutation changes b; other is the file in its place in another set.
type mutation func(r *rand.Rand, b, other []byte) []byte

// at is a place in b, or 0 for none.
func at(r *rand.Rand, b []byte) int { return r.IntN(max(1, len(b))) }

// ofBytes are mutations of any file.
var ofBytes = map[string]mutation{
	"bit flipped": func(r *rand.Rand, b, _ []byte) []byte {
		b[at(r, b)] ^= 1 << r.IntN(8)
		return b
	},
	"bits flipped": func(r *rand.Rand, b, _ []byte) []byte {
		for range 2 + r.IntN(8) {
			b[at(r, b)] ^= 1 << r.IntN(8)
		}
		return b
	},
	"byte changed":  func(r *rand.Rand, b, _ []byte) []byte { b[at(r, b)] = byte(r.Uint32()); return b },
	"byte inserted": func(r *rand.Rand, b, _ []byte) []byte { return slices.Insert(b, at(r, b), byte(r.Uint32())) },
	"byte left out": func(r *rand.Rand, b, _ []byte) []byte { i := at(r, b); return slices.Delete(b, i, i+1) },
	"byte appended": func(r *rand.Rand, b, _ []byte) []byte { return append(b, byte(r.Uint32())) },
	"truncated":     func(r *rand.Rand, b, _ []byte) []byte { return b[:at(r, b)] },
	"front cut off": func(r *rand.Rand, b, _ []byte) []byte { return b[1+at(r, b):] },
	"range doubled": func(r *rand.Rand, b, _ []byte) []byte {
		i, j := ordered(r, b)
		return slices.Insert(b, i, bytes.Clone(b[i:j])...)
	},
	"range left out": func(r *rand.Rand, b, _ []byte) []byte { i, j := ordered(r, b); return slices.Delete(b, i, j) },
	"range zeroed":   func(r *rand.Rand, b, _ []byte) []byte { i, j := ordered(r, b); clear(b[i:j]); return b },
	"spliced":        func(r *rand.Rand, b, o []byte) []byte { return append(b[:at(r, b)], o[at(r, o):]...) },
	"spliced, same place": func(r *rand.Rand, b, o []byte) []byte {
		i := min(at(r, b), len(o))
		return append(b[:i], o[i:]...)
	},
	"another file": func(_ *rand.Rand, _, o []byte) []byte { return bytes.Clone(o) },
	"hash of it":   func(_ *rand.Rand, b, _ []byte) []byte { sum := sha256.Sum256(b); return sum[:] },
}

func ordered(r *rand.Rand, b []byte) (i, j int) {
	i, j = at(r, b), at(r, b)
	return min(i, j), max(i, j)
}

// ofDER are mutations of a message, in which the lengths around stay right.
var ofDER = map[string]mutation{
	"DER: length changed": func(r *rand.Rand, b, _ []byte) []byte {
		root := parseDER(b)
		all := root.all()
		e := all[r.IntN(len(all))]
		e.long = 1 + r.IntN(4) // not minimal, indefinite, off by one
		return root.encode()
	},
	"DER: element left out": func(r *rand.Rand, b, _ []byte) []byte {
		return siblings(r, b, func(kids []*element, i int) []*element { return slices.Delete(kids, i, i+1) })
	},
	"DER: element doubled": func(r *rand.Rand, b, _ []byte) []byte {
		return siblings(r, b, func(kids []*element, i int) []*element { return slices.Insert(kids, i, kids[i]) })
	},
	"DER: elements swapped": func(r *rand.Rand, b, _ []byte) []byte { // attributes among them
		return siblings(r, b, func(kids []*element, i int) []*element {
			j := r.IntN(len(kids))
			kids[i], kids[j] = kids[j], kids[i]
			return kids
		})
	},
	"DER: element of the other message": func(r *rand.Rand, b, o []byte) []byte {
		theirs := parseDER(o).all()
		return siblings(r, b, func(kids []*element, i int) []*element {
			same := slices.DeleteFunc(slices.Clone(theirs), func(e *element) bool { return e.tag != kids[i].tag })
			if len(same) > 0 && r.IntN(4) > 0 {
				theirs = same
			}
			kids[i] = theirs[r.IntN(len(theirs))]
			return kids
		})
	},
	"DER: element inserted": func(r *rand.Rand, b, o []byte) []byte {
		theirs := parseDER(o).all()
		return siblings(r, b, func(kids []*element, i int) []*element {
			return slices.Insert(kids, i, theirs[r.IntN(len(theirs))])
		})
	},
	"DER: tag changed": func(r *rand.Rand, b, _ []byte) []byte {
		root := parseDER(b)
		all := root.all()
		all[r.IntN(len(all))].tag ^= 1 << r.IntN(8)
		return root.encode()
	},
	"DER: contents changed": func(r *rand.Rand, b, _ []byte) []byte {
		root := parseDER(b)
		all := slices.DeleteFunc(root.all(), func(e *element) bool { return e.kids != nil })
		e := all[r.IntN(len(all))]
		e.body = randomBytes(r, r.IntN(2+len(e.body)))
		return root.encode()
	},
}

// ofTrailer are mutations of a file with a signature at its end.
var ofTrailer = map[string]mutation{
	"trailer: byte changed": func(r *rand.Rand, b, _ []byte) []byte {
		b[len(b)-1-r.IntN(len(marker)+trailerSize)] = byte(r.Uint32())
		return b
	},
	"trailer: length changed": func(r *rand.Rand, b, _ []byte) []byte {
		n := len(b) - len(marker) - 1 - r.IntN(4)
		b[n] += byte(1 + r.IntN(255))
		return b
	},
	"trailer: appended twice": func(r *rand.Rand, b, o []byte) []byte {
		_, signature, _ := split([][]byte{b, o}[r.IntN(2)])
		return Append(b, signature)
	},
	"trailer: other contents": func(_ *rand.Rand, b, o []byte) []byte {
		contents, _, _ := split(o)
		_, signature, _ := split(b)
		return Append(contents, signature)
	},
	"trailer: left out": func(r *rand.Rand, b, _ []byte) []byte {
		contents, signature, _ := split(b)
		return append(contents, signature[:r.IntN(len(signature))]...)
	},
}

// ofPEM are mutations of a file with a signature in PEM.
var ofPEM = map[string]mutation{
	"PEM: base64 changed": func(r *rand.Rand, b, _ []byte) []byte {
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_\r\n "
		from := bytes.Index(b, []byte(signatureBegin))
		b[from+r.IntN(len(b)-from)] = alphabet[r.IntN(len(alphabet))]
		return b
	},
	"PEM: line inserted": func(r *rand.Rand, b, _ []byte) []byte {
		lines := bytes.SplitAfter(b, []byte("\n"))
		more := []string{"\n", " \n", "Proc-Type: 4,ENCRYPTED\n\n", signatureBegin, "-----END CMS-----\n", string(lines[r.IntN(len(lines))])}
		return bytes.Join(slices.Insert(lines, r.IntN(len(lines)), []byte(more[r.IntN(len(more))])), nil)
	},
	"PEM: lines swapped": func(r *rand.Rand, b, _ []byte) []byte {
		lines := bytes.SplitAfter(b, []byte("\n"))
		i, j := r.IntN(len(lines)), r.IntN(len(lines))
		lines[i], lines[j] = lines[j], lines[i]
		return bytes.Join(lines, nil)
	},
	"PEM: another signature": func(_ *rand.Rand, b, o []byte) []byte {
		i, j := bytes.Index(b, []byte(signatureBegin)), bytes.Index(o, []byte(signatureBegin))
		return append(b[:i], o[j:]...)
	},
}

func both(these ...map[string]mutation) map[string]mutation {
	all := map[string]mutation{}
	for _, m := range these {
		maps.Copy(all, m)
	}
	return all
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// element is one element of a message in DER.
type element struct {
	tag  byte
	body []byte
	kids []*element
	long int // how its length is wrong; 0: it is right
}

func parseDER(b []byte) *element {
	e, _ := parseElement(b)
	return e
}

func parseElement(b []byte) (e *element, rest []byte) {
	n, head := int(b[1]), 2
	if n >= 0x80 {
		n, head = 0, 2+int(b[1]&0x7f)
		for _, v := range b[2:head] {
			n = n<<8 | int(v)
		}
	}
	e = &element{tag: b[0], body: b[head : head+n]}
	for kids := e.body; e.tag&0x20 != 0 && len(kids) > 0; {
		var k *element
		k, kids = parseElement(kids)
		e.kids = append(e.kids, k)
	}
	return e, b[head+n:]
}

func (e *element) encode() []byte {
	body := e.body
	if e.tag&0x20 != 0 && e.kids != nil {
		body = nil
		for _, k := range e.kids {
			body = append(body, k.encode()...)
		}
	}
	n := len(body)
	switch {
	case e.long == 1:
		return slices.Concat([]byte{e.tag, 0x83, byte(n >> 16), byte(n >> 8), byte(n)}, body)
	case e.long == 2:
		return slices.Concat([]byte{e.tag, 0x80}, body, []byte{0, 0})
	case e.long > 2:
		n += 2*e.long - 7 // one less, one more
	}
	switch {
	case n < 0x80:
		return slices.Concat([]byte{e.tag, byte(n)}, body)
	case n < 0x100:
		return slices.Concat([]byte{e.tag, 0x81, byte(n)}, body)
	}
	return slices.Concat([]byte{e.tag, 0x82, byte(n >> 8), byte(n)}, body)
}

// all lists e and what is in it.
func (e *element) all() []*element {
	list := []*element{e}
	for _, k := range e.kids {
		list = append(list, k.all()...)
	}
	return list
}

// siblings changes the children of one element of b.
func siblings(r *rand.Rand, b []byte, change func(kids []*element, i int) []*element) []byte {
	root := parseDER(b)
	parents := slices.DeleteFunc(root.all(), func(e *element) bool { return len(e.kids) == 0 })
	p := parents[r.IntN(len(parents))]
	p.kids = change(p.kids, r.IntN(len(p.kids)))
	if len(p.kids) == 0 {
		p.body = nil
	}
	return root.encode()
}

// word is whose word v is, on what.
func word(v Verified) string {
	return fmt.Sprintf("%s %s %s %s %s", v.Signer().Name, v.Verdict(), v.Covers(), v.Format(), v.SignedAt().UTC())
}

// soakedSets are all that is soaked: each kind of key, detached, appended, by a
// manifest and in a revocation list, a chain, and what OpenSSL and the kernel's
// sign-file made.
func soakedSets(t *testing.T) []soaked {
	t.Helper()
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	obj, other := read("../examples/conn-count/conn_count.bpf.o"), read("../examples/xdp-drop/xdp_drop.bpf.o")
	pinned := func(name string, object []byte) []byte {
		return bytes.Replace(read(name), []byte("[object]\n"), fmt.Appendf(nil, "[object]\nsha256 = %q\n", hexOf(object)), 1)
	}
	text, otherText := pinned("../examples/conn-count/conn-count.toml", obj), pinned("../examples/xdp-drop/xdp-drop.toml", other)
	detached := func(name string, store *Trust, objects, signatures [2][]byte) soaked {
		return soaked{name: name, files: [][]byte{objects[0], signatures[0]}, more: [][]byte{objects[1], signatures[1]},
			kinds: []map[string]mutation{ofBytes, both(ofBytes, ofDER)},
			verify: func(f [][]byte) (string, error) {
				v, err := store.Verify(Bundle{Object: f[0], ObjectFile: "x.o", Signature: f[1]}, nil, time.Now())
				if err != nil {
					return "", err
				}
				return word(v) + string(readAll(t, v)), nil
			}}
	}
	appended := func(name string, store *Trust, file, more []byte) soaked {
		return soaked{name: name, files: [][]byte{file}, more: [][]byte{more}, kinds: []map[string]mutation{both(ofBytes, ofTrailer)},
			verify: func(f [][]byte) (string, error) {
				v, err := store.Verify(Bundle{Object: f[0], ObjectFile: "x.o"}, nil, time.Now())
				if err != nil {
					return "", err
				}
				return word(v) + string(readAll(t, v)), nil
			}}
	}
	var sets []soaked
	for _, algorithm := range []string{"ecdsa", "rsa-2048", "ed25519"} {
		s := generated(t, "team", algorithm)
		store := trust(t, map[string][]byte{"team.pem": s.pem()})
		first, second := s.sign(t, obj), s.sign(t, other)
		manifests := soaked{name: algorithm + ", manifest", files: [][]byte{text, s.sign(t, text), obj}, more: [][]byte{otherText, s.sign(t, otherText), other},
			kinds: []map[string]mutation{ofBytes, both(ofBytes, ofDER), ofBytes},
			verify: func(f [][]byte) (string, error) {
				m, err := manifest.Parse("/etc/hornet.d/x.toml", f[0])
				if err != nil {
					return "", err
				}
				b := Bundle{Object: f[2], ObjectFile: "x.o", SHA256: m.Object.SHA256, Manifest: []byte(m.Source()), ManifestFile: m.File, ManifestSignature: f[1]}
				v, err := store.Verify(b, m.Object.Signers, time.Now())
				if err != nil {
					return "", err
				}
				return word(v) + string(readAll(t, v)) + m.Source(), nil
			}}
		lists := [2]string{"serial = 7\n[[object]]\nsha256 = \"" + hexOf(obj) + "\"\n", "serial = 8\n[[key]]\nid = \"00112233\"\n"}
		revocations := soaked{name: algorithm + ", revocation list", files: [][]byte{signedList(t, s, lists[0])}, more: [][]byte{signedList(t, s, lists[1])},
			kinds: []map[string]mutation{both(ofBytes, ofPEM)},
			verify: func(f [][]byte) (string, error) {
				l, err := store.VerifyRevocations("revoked", f[0], []string{"team"})
				if err != nil {
					return "", err
				}
				return l.Signer().Name + string(l.TOML()), nil
			}}
		sets = append(sets, detached(algorithm+", detached", store, [2][]byte{obj, other}, [2][]byte{first, second}),
			appended(algorithm+", appended", store, Append(obj, first), Append(other, second)), manifests, revocations)
	}
	root := certified(t, nil, "root", nil, lasting(asCA))
	middle := certified(t, &root, "middle", nil, lasting(asCA))
	leaf := certified(t, &middle, "leaf", nil, lasting(asIs))
	chained := func(object []byte) []byte {
		b, err := Sign(object, leaf.key, leaf.cert, middle.cert)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	store := trust(t, map[string][]byte{"root.pem": root.pem()})
	sets = append(sets, detached("chain of three", store, [2][]byte{obj, other}, [2][]byte{chained(obj), chained(other)}))

	small := read("../internal/cms/testdata/object")
	names, err := filepath.Glob("../internal/cms/testdata/*.p7s")
	if err != nil || len(names) < 5 {
		t.Fatalf("%d messages: %v", len(names), err)
	}
	for i, name := range names {
		key, _, _ := strings.Cut(filepath.Base(name), "-")
		store := trust(t, map[string][]byte{"their.pem": read(filepath.Join(filepath.Dir(name), key+".pem"))})
		sets = append(sets, detached("OpenSSL's "+filepath.Base(name), store, [2][]byte{small, obj}, [2][]byte{read(name), read(names[(i+len(names)/2)%len(names)])})) // of another key
	}
	signFile, err := filepath.Glob("testdata/*.o")
	if err != nil || len(signFile) < 4 {
		t.Fatalf("%d files: %v", len(signFile), err)
	}
	for i, name := range signFile {
		store := trust(t, map[string][]byte{"kernel.pem": read(strings.TrimSuffix(name, ".o") + ".pem")})
		sets = append(sets, appended("sign-file's "+filepath.Base(name), store, read(name), read(signFile[(i+1)%len(signFile)])))
	}
	for i, s := range sets {
		for _, files := range [][][]byte{s.files, s.more} {
			if meaning, err := s.verify(files); err == nil {
				sets[i].signed = append(sets[i].signed, meaning)
			}
		}
		if len(sets[i].signed) == 0 {
			t.Fatalf("%s: not accepted as it is", s.name)
		}
	}
	return sets
}

// lasting is change for a certificate that is valid whenever this test runs.
func lasting(change func(*x509.Certificate)) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		change(c)
		c.NotBefore, c.NotAfter = time.Unix(0, 0), time.Unix(1<<32, 0)
	}
}

// mutate changes one file, in one case of eight that or another one once more,
// and says how. The second set as a whole is no mutant.
func (s soaked) mutate(r *rand.Rand) (files [][]byte, kind string) {
	for files == nil || slices.EqualFunc(files, s.files, bytes.Equal) || slices.EqualFunc(files, s.more, bytes.Equal) {
		files = slices.Clone(s.files)
		i := r.IntN(len(files))
		kinds := slices.Sorted(maps.Keys(s.kinds[i]))
		kind = kinds[r.IntN(len(kinds))]
		files[i] = s.kinds[i][kind](r, bytes.Clone(files[i]), s.more[i])
		if j := r.IntN(8 * len(files)); j < len(files) && len(files[j]) > 0 {
			kinds := slices.Sorted(maps.Keys(ofBytes))
			files[j] = ofBytes[kinds[r.IntN(len(kinds))]](r, bytes.Clone(files[j]), s.more[j])
		}
	}
	return files, kind
}

// TestSoak changes objects, signatures, manifests and revocation lists, and
// admits them as the daemon does. None may be accepted: Verify returned no
// error, and what would be loaded or obeyed, byte for byte, whose word it is and
// what that covers are not what was signed. A mutant that is let in and means
// the same is counted apart: certificates in a message (which are not signed,
// and not believed), and the parameters of a digest, NULL or absent. With HORNET_SOAK=1 it is a million;
// HORNET_SEED makes other ones.
func TestSoak(t *testing.T) {
	count, seed := 50_000, uint64(1)
	if os.Getenv("HORNET_SOAK") == "1" {
		count = 1_000_000
	}
	if s, err := strconv.ParseUint(os.Getenv("HORNET_SEED"), 10, 64); err == nil {
		seed = s
	}
	sets := soakedSets(t)
	type result struct{ refused, same, accepted int }
	byKind, bySet := map[string]result{}, map[string]result{}
	var mu sync.Mutex
	var workers sync.WaitGroup
	began := time.Now()
	for w := range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for i := w; i < count; i += runtime.GOMAXPROCS(0) {
				s := sets[i%len(sets)]
				files, kind := s.mutate(rand.New(rand.NewPCG(seed, uint64(i))))
				meaning, err := s.verify(files)
				var one result
				switch {
				case err != nil:
					one.refused = 1
				case slices.Contains(s.signed, meaning):
					one.same = 1
				default:
					one.accepted = 1
					t.Errorf("seed %d, mutant %d (%s, %s) was accepted: %.200q", seed, i, s.name, kind, meaning)
				}
				mu.Lock()
				add := func(all map[string]result, key string) {
					r := all[key]
					all[key] = result{r.refused + one.refused, r.same + one.same, r.accepted + one.accepted}
				}
				add(byKind, kind)
				add(bySet, s.name)
				add(byKind, "all")
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	for _, all := range []map[string]result{bySet, byKind} {
		for _, key := range slices.Sorted(maps.Keys(all)) {
			t.Logf("%-50s %8d refused %6d the same %3d accepted", key, all[key].refused, all[key].same, all[key].accepted)
		}
	}
	t.Logf("%d mutants, seed %d, %s: %d accepted", count, seed, time.Since(began).Round(time.Second), byKind["all"].accepted)
}
