package cms

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sample is a good message: its bytes, what it signs, and whose it is.
type sample struct {
	name    string
	message []byte
	content []byte
	cert    *x509.Certificate
}

// samples are the messages in testdata, which OpenSSL made (make.sh there),
// and some that cover what OpenSSL does not make.
func samples(t testing.TB) []sample {
	t.Helper()
	object := readFile(t, "testdata/object")
	files, err := filepath.Glob("testdata/*.p7s")
	if err != nil || len(files) == 0 {
		t.Fatalf("testdata/*.p7s: %d files: %v", len(files), err)
	}
	var all []sample
	for _, f := range files {
		key, _, _ := strings.Cut(filepath.Base(f), "-")
		cert := parseCert(t, readFile(t, filepath.Join("testdata", key+".pem")))
		all = append(all, sample{filepath.Base(f), readFile(t, f), object, cert})
	}
	k := edKey()
	protected := attributed(k)
	protected.attributes = append(protected.attributes, protection(protected.digest, protected.algorithm))
	all = append(all, sample{"ed25519-bpftool", plain(k).message(t, k), content, k.cert},
		sample{"ed25519-protected", protected.message(t, k), content, k.cert})
	for _, s := range all {
		if err := accept(s.message, s.content, s.cert); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
	}
	return all
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// harmless is the part of a message that may change: inside the certificates,
// which are not read.
func (s sample) harmless() (from, to int) {
	if from = bytes.Index(s.message, s.cert.Raw); from < 0 {
		return 0, 0
	}
	return from + 4, from + len(s.cert.Raw) // behind the tag and three bytes of length
}

// TestBitFlips flips every bit: no other message is accepted.
func TestBitFlips(t *testing.T) {
	for _, s := range samples(t) {
		t.Run(s.name, func(t *testing.T) {
			from, to := s.harmless()
			b := slices.Clone(s.message)
			for i := range b {
				for bit := range 8 {
					b[i] ^= 1 << bit
					err := accept(b, s.content, s.cert)
					if inside := i >= from && i < to; inside != (err == nil) {
						t.Errorf("bit %d of byte %d (%#x): %v", bit, i, s.message[i], err)
					}
					b[i] ^= 1 << bit
				}
			}
		})
	}
}

// TestByteValues replaces every byte of the smallest message by every other.
func TestByteValues(t *testing.T) {
	k := edKey()
	message := plain(k).message(t, k)
	b := slices.Clone(message)
	for i := range b {
		for v := range 256 {
			b[i] = byte(v)
			if err := accept(b, content, k.cert); (err == nil) != (byte(v) == message[i]) {
				t.Errorf("byte %d = %#x instead of %#x: %v", i, v, message[i], err)
			}
		}
		b[i] = message[i]
	}
}

// TestContentFlips flips every bit of what is signed.
func TestContentFlips(t *testing.T) {
	for _, s := range samples(t) {
		b := slices.Clone(s.content)
		for i := range b {
			for bit := range 8 {
				b[i] ^= 1 << bit
				if err := accept(s.message, b, s.cert); err == nil {
					t.Errorf("%s: bit %d of byte %d of the content", s.name, bit, i)
				}
				b[i] ^= 1 << bit
			}
		}
	}
}

// TestTruncated cuts every message, and what it signs, after every byte, and
// puts bytes behind both.
func TestTruncated(t *testing.T) {
	for _, s := range samples(t) {
		for n := range s.message {
			if err := accept(s.message[:n], s.content, s.cert); err == nil {
				t.Errorf("%s: the first %d bytes were accepted", s.name, n)
			}
		}
		for n := range s.content {
			if err := accept(s.message, s.content[:n], s.cert); err == nil {
				t.Errorf("%s: the first %d bytes of the content were accepted", s.name, n)
			}
		}
		for _, more := range []string{"\x00", "\x00\x00", "\n", "\x30\x00", string(s.message)} {
			if err := accept(append(slices.Clone(s.message), more...), s.content, s.cert); err == nil {
				t.Errorf("%s: accepted with %q behind it", s.name, more)
			}
		}
	}
}

// TestMixed verifies every message with every other's certificate and content.
func TestMixed(t *testing.T) {
	all := samples(t)
	for i, s := range all {
		for _, o := range all[i+1:] {
			same := bytes.Equal(s.cert.Raw, o.cert.Raw) && bytes.Equal(s.content, o.content)
			if err := accept(s.message, o.content, o.cert); (err == nil) != same {
				t.Errorf("%s with the key and content of %s: %v", s.name, o.name, err)
			}
			m, err := Parse(s.message)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Verify(o.content, o.cert.PublicKey); (err == nil) != same {
				t.Errorf("%s, not asked for its name, with the key and content of %s: %v", s.name, o.name, err)
			}
		}
	}
}

// node is one element of a message.
type node struct {
	tag      byte
	contents []byte // primitive
	children []*node
	indef    bool // encode with BER's indefinite length
	long     int  // bytes too many in the length
}

func parseNode(b []byte) (*node, []byte) {
	n, length := &node{tag: b[0]}, int(b[1])
	b = b[2:]
	if length >= 0x80 {
		size := length & 0x7f
		length = 0
		for _, v := range b[:size] {
			length = length<<8 | int(v)
		}
		b = b[size:]
	}
	n.contents = b[:length]
	if n.tag&0x20 != 0 {
		for rest := n.contents; len(rest) > 0; {
			var child *node
			child, rest = parseNode(rest)
			n.children = append(n.children, child)
		}
		n.contents = nil
	}
	return n, b[length:]
}

func (n *node) encode() []byte {
	body := n.contents
	for _, c := range n.children {
		body = append(body, c.encode()...)
	}
	switch {
	case n.indef:
		return slices.Concat([]byte{n.tag, 0x80}, body, []byte{0, 0})
	case n.long > 0:
		length := []byte{0, 0, 0, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}
		for len(length) > 1 && length[0] == 0 {
			length = length[1:]
		}
		if n.long > 1 {
			length = append(make([]byte, n.long-1), length...)
		}
		if n.long == 1 && len(body) > 127 {
			length = append([]byte{0}, length...)
		}
		return slices.Concat([]byte{n.tag, 0x80 | byte(len(length))}, length, body)
	}
	return tlv(n.tag, body)
}

func (n *node) walk(f func(parent *node, i int)) {
	for i := range n.children {
		f(n, i)
		n.children[i].walk(f)
	}
}

// TestStructure changes the structure of every message one element at a time,
// with all lengths around it put right: elements left out, doubled, swapped,
// emptied, filled, re-tagged, and encoded as BER allows and DER does not.
func TestStructure(t *testing.T) {
	for _, s := range samples(t) {
		t.Run(s.name, func(t *testing.T) {
			root, rest := parseNode(s.message)
			if len(rest) > 0 || !bytes.Equal(root.encode(), s.message) {
				t.Fatal("the test does not encode what it parsed")
			}
			top, certificates := &node{children: []*node{root}}, certificateNodes(root)
			try := func(what string, parent *node, i int, changed *node) {
				b := bytes.Join(encodeAll(top.children), nil)
				if bytes.Equal(b, s.message) {
					return
				}
				if err := accept(b, s.content, s.cert); err == nil && !mayChange(certificates, what, parent, changed) {
					t.Errorf("%s: child %d of %#x: accepted\n%x", what, i, parent.tag, b)
				}
			}
			var tried int
			top.walk(func(parent *node, i int) {
				tried++
				old := parent.children
				for what, children := range changes(old, i) {
					parent.children = children
					try(what, parent, i, old[i])
				}
				parent.children = old
				changeNode(old[i], func(what string) { try(what, parent, i, old[i]) })
			})
			if tried < 15 {
				t.Errorf("only %d elements were tried", tried)
			}
		})
	}
}

func encodeAll(nodes []*node) (all [][]byte) {
	for _, n := range nodes {
		all = append(all, n.encode())
	}
	return all
}

// changes are what can be done to child i among its siblings.
func changes(old []*node, i int) map[string][]*node {
	null := &node{tag: 5}
	swapped := slices.Clone(old)
	if i+1 < len(old) {
		swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
	}
	return map[string][]*node{
		"left out":    slices.Delete(slices.Clone(old), i, i+1),
		"doubled":     slices.Insert(slices.Clone(old), i, old[i]),
		"swapped":     swapped,
		"NULL before": slices.Insert(slices.Clone(old), i, null),
		"NULL behind": slices.Insert(slices.Clone(old), i+1, null),
		"wrapped":     append(append(slices.Clone(old[:i]), &node{tag: 0x30, children: old[i : i+1]}), old[i+1:]...),
		"unwrapped":   slices.Concat(old[:i], old[i].children, old[i+1:]),
	}
}

// changeNode does what can be done to one element, and undoes it.
func changeNode(n *node, try func(what string)) {
	was := *n
	change := func(what string, f func()) {
		f()
		try(what)
		*n = was
	}
	change("emptied", func() { n.contents, n.children = nil, nil })
	change("filled", func() {
		if n.children == nil {
			n.contents = append(slices.Clone(n.contents), 0)
		} else {
			n.children = append(slices.Clone(n.children), &node{tag: 4, contents: []byte{0}})
		}
	})
	change("shortened", func() { n.contents = n.contents[:max(0, len(n.contents)-1)] })
	change("padded", func() { n.contents = append([]byte{0}, n.contents...) })
	change("indefinite length", func() { n.indef = true })
	for long := 1; long <= 4; long++ {
		change("length too long", func() { n.long = long })
	}
	for bit := range 8 {
		change("another tag", func() { n.tag ^= 1 << bit })
	}
}

// mayChange: what the change to child i of parent did is without meaning. That
// is anything inside the certificates (nodes), leaving them out, and a digest's
// parameters being NULL or absent, of which RFC 5754 and 4055 want both accepted.
func mayChange(nodes map[*node]bool, what string, parent *node, left *node) bool {
	if nodes[parent] || nodes[left] && what == "left out" {
		return true
	}
	var digest asn1.ObjectIdentifier
	first := parent.children[0]
	if _, err := asn1.Unmarshal(first.encode(), &digest); err != nil || digests[digest.String()] == 0 {
		return false
	}
	rest := bytes.Join(encodeAll(parent.children[1:]), nil)
	return len(rest) == 0 || bytes.Equal(rest, null5)
}

// certificateNodes are the certificates' element and all below it.
func certificateNodes(root *node) map[*node]bool {
	nodes := make(map[*node]bool)
	for _, n := range root.children[1].children[0].children {
		if n.tag == 0xa0 {
			nodes[n] = true
			n.walk(func(parent *node, i int) { nodes[parent.children[i]] = true })
		}
	}
	return nodes
}
