package daemon

import (
	"fmt"
	"strings"

	"github.com/hornetd/hornetd/signing"
)

// trustChange says how what counts now differs from what did before; "" where it
// does not.
func trustChange(before, now *signing.Trust) string {
	was, is := byKey(before), byKey(now)
	var said []string
	for _, key := range sortedKeys(is) {
		s, old := is[key], was[key]
		switch {
		case old.Name == "":
			said = append(said, "new: "+signerText(s))
		case s.Problem != old.Problem && s.Problem != "":
			said = append(said, fmt.Sprintf("%s does not count: %s", signerText(s), s.Problem))
		case s.Problem != old.Problem:
			said = append(said, signerText(s)+" counts again")
		case !s.NotAfter.Equal(old.NotAfter) || !s.NotBefore.Equal(old.NotBefore):
			said = append(said, "certificate renewed: "+signerText(s))
		}
	}
	for _, key := range sortedKeys(was) {
		if _, ok := is[key]; !ok {
			said = append(said, "gone: "+signerText(was[key]))
		}
	}
	var serial uint64
	if before != nil && before.Revocations() != nil {
		serial = before.Revocations().Serial
	}
	if l := now.Revocations(); l != nil && l.Serial != serial {
		said = append(said, fmt.Sprintf("revocation list: serial %d, signed by %s", l.Serial, viewList(l).Signer))
	}
	return strings.Join(said, "; ")
}

func byKey(t *signing.Trust) map[string]signing.Signer {
	all := make(map[string]signing.Signer)
	if t != nil {
		for _, s := range t.Signers() {
			all[s.Name+"/"+s.KeySHA256] = s
		}
	}
	return all
}

// signerText is a signer's name and the beginning of its key's digest.
func signerText(s signing.Signer) string {
	return fmt.Sprintf("%s (key %.12s…)", s.Name, s.KeySHA256)
}
