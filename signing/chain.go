package signing

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hornetd/hornetd/internal/cms"
)

// A certificate of the store that says both that it is a CA and that its key
// may sign certificates makes the keys that it issued certificates for trusted
// too, under its own name. Such a certificate travels in the message, and so do
// those between it and the CA. Nothing in a message is trusted: it is a candidate,
// and counts if its chain ends at a certificate of the store.

// maxCarried is how many certificates of a message are looked at.
const maxCarried = 8

// isCA reports whether cert may issue. OpenSSL makes self-signed certificates CAs
// unless told otherwise, so that is not enough.
func isCA(cert *x509.Certificate) bool {
	return cert != nil && cert.BasicConstraintsValid && cert.IsCA && cert.KeyUsage&x509.KeyUsageCertSign != 0
}

// authority reports whether e may issue certificates.
func (e entry) authority() bool { return isCA(e.cert) && cms.CheckKey(e.key) == nil }

// issued are the entries that m's own certificates make: the one m names, for
// each CA of the store that its chains end at. The error says why there is none.
func (t *Trust) issued(m *cms.Message) ([]entry, error) {
	authorities := slices.DeleteFunc(slices.Clone(t.entries), func(e entry) bool { return !e.authority() })
	if len(authorities) == 0 { // then nothing in it needs a parser
		return nil, errors.New("there is no CA that could have issued the certificate in it")
	}
	leaf, others, err := carried(m)
	if err != nil {
		return nil, err
	}
	chains, err := chains(leaf.cert, others, authorities)
	if err != nil {
		return nil, fmt.Errorf("the certificate of %.200q in it does not lead to a CA of the store: %w", leaf.cert.Subject.String(), err)
	}
	var entries []entry
	for _, chain := range chains {
		for _, ca := range authorities {
			if ca.cert.Equal(chain[len(chain)-1]) {
				e := leaf
				e.name, e.file, e.chain = ca.name, ca.file, chain
				if e.keys, err = keysOf(chain); err != nil {
					return nil, err
				}
				entries = append(entries, e)
			}
		}
	}
	return entries, nil
}

// keysOf are the keys of a chain, in its order.
func keysOf(chain []*x509.Certificate) (keys []Key, err error) {
	for _, cert := range chain {
		e, err := certificateEntry(cert)
		if err != nil {
			return nil, err
		}
		keys = append(keys, e.keys...)
	}
	return keys, nil
}

// carried returns the certificate in m that it names, and the others.
func carried(m *cms.Message) (leaf entry, others []*x509.Certificate, err error) {
	if len(m.Certificates) > maxCarried {
		return entry{}, nil, fmt.Errorf("it has %d certificates in it, at most %d are accepted", len(m.Certificates), maxCarried)
	}
	for _, b := range m.Certificates {
		cert, err := x509.ParseCertificate(b)
		if err != nil {
			return entry{}, nil, fmt.Errorf("a certificate in it: %w", err)
		}
		if err := cms.CheckKey(cert.PublicKey); err != nil {
			return entry{}, nil, fmt.Errorf("the certificate of %.200q in it: %w", cert.Subject.String(), err)
		}
		e, err := certificateEntry(cert)
		if err != nil {
			return entry{}, nil, err
		}
		if leaf.cert == nil && e.named(m) {
			leaf = e
			continue
		}
		if isCA(cert) {
			others = append(others, cert)
		}
	}
	switch {
	case leaf.cert == nil:
		return entry{}, nil, errors.New("it carries no certificate of its signer")
	case leaf.problem != nil:
		return entry{}, nil, fmt.Errorf("the certificate of %.200q in it: %w", leaf.cert.Subject.String(), leaf.problem)
	case leaf.cert.IsCA:
		return entry{}, nil, fmt.Errorf("the certificate of %.200q in it is a CA's, which signs objects only where it is in the store itself", leaf.cert.Subject.String())
	case !slices.Contains(leaf.cert.ExtKeyUsage, x509.ExtKeyUsageCodeSigning):
		return entry{}, nil, fmt.Errorf("the certificate of %.200q in it has no codeSigning among its extended key usages", leaf.cert.Subject.String())
	}
	return leaf, others, nil
}

// chains are cert's ways to one of authorities, valid or not: whether all of one
// is valid now is looked at once the signature is known to be good, and there may
// never have been a moment at which all of it was (a CA that was renewed after
// cert had ended, the old certificate gone). crypto/x509 insists on a moment, so
// it is given copies that are always valid.
func chains(cert *x509.Certificate, others []*x509.Certificate, authorities []entry) ([][]*x509.Certificate, error) {
	originals := make(map[*x509.Certificate]*x509.Certificate)
	always := func(cert *x509.Certificate) *x509.Certificate {
		c := *cert
		c.NotBefore, c.NotAfter = time.Time{}, lastMoment
		originals[&c] = cert
		return &c
	}
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: lastMoment,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}
	for _, ca := range authorities {
		options.Roots.AddCert(always(ca.cert))
	}
	for _, other := range others {
		options.Intermediates.AddCert(always(other))
	}
	found, err := always(cert).Verify(options)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "x509: "))
	}
	for _, chain := range found {
		for i := range chain {
			chain[i] = originals[chain[i]]
		}
	}
	return found, nil
}

var lastMoment = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// validity is of e's certificate and those above it the one that begins last and
// the one that ends first. There must be one. They may leave no time between them.
func (e entry) validity() (from, until *x509.Certificate) {
	from, until = e.cert, e.cert
	for _, cert := range e.chain {
		if cert.NotBefore.After(from.NotBefore) {
			from = cert
		}
		if cert.NotAfter.Before(until.NotAfter) {
			until = cert
		}
	}
	return from, until
}
