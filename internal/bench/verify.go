package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/hornetd/hornetd/signing"
)

// objectSize is the median of objects in the field.
const objectSize = 112 << 10

// verification is what a load pays for being signed, without reading the
// files: signing.Trust.Verify, and beside it the least that any verifier can do,
// the object's SHA-256 and one operation of the bare primitive for each key.
type verification struct {
	name          string
	judged        bool // against maxVerify
	floor, verify samples
}

// pair is a key with its certificate.
type pair struct {
	signing.Issuer
	certPEM []byte
}

func issue(name, algorithm string, ca bool, issuer *signing.Issuer) (p pair, err error) {
	keyPEM, certPEM, err := signing.Issue(name, algorithm, ca, issuer)
	if err != nil {
		return p, err
	}
	p.certPEM = certPEM
	if p.Key, err = signing.ParseKey(keyPEM); err != nil {
		return p, err
	}
	p.Cert, err = signing.ParseCertificate(certPEM)
	return p, err
}

// verifications measures each kind of key, detached and appended, and a chain
// of three. Floor and verifier take turns.
func verifications(rounds int) ([]verification, error) {
	object := make([]byte, objectSize)
	if _, err := rand.Read(object); err != nil {
		return nil, err
	}
	var all []verification
	for _, a := range []struct {
		name, algorithm string
		judged          bool
	}{{"RSA-2048", "rsa-2048", true}, {"P-256", "ecdsa", true}, {"Ed25519", "ed25519", false}} {
		p, err := issue("bench", a.algorithm, false, nil)
		if err != nil {
			return nil, err
		}
		signature, err := signing.Sign(object, p.Key, p.Cert)
		if err != nil {
			return nil, err
		}
		detached := verification{name: a.name + ", detached", judged: a.judged}
		if err := detached.measure(signing.Bundle{Object: object, Signature: signature}, p.certPEM, p.Key, 1, rounds); err != nil {
			return nil, fmt.Errorf("%s: %w", detached.name, err)
		}
		appended := verification{name: a.name + ", appended", judged: a.judged}
		if err := appended.measure(signing.Bundle{Object: signing.Append(object, signature)}, p.certPEM, p.Key, 1, rounds); err != nil {
			return nil, fmt.Errorf("%s: %w", appended.name, err)
		}
		all = append(all, detached, appended)
	}
	chain, err := chainOfThree(object, rounds)
	return append(all, chain), err
}

func chainOfThree(object []byte, rounds int) (v verification, err error) {
	v.name = "P-256, chain of three"
	root, err := issue("root", "ecdsa", true, nil)
	if err != nil {
		return v, err
	}
	middle, err := issue("middle", "ecdsa", true, &root.Issuer)
	if err != nil {
		return v, err
	}
	leaf, err := issue("leaf", "ecdsa", false, &middle.Issuer)
	if err != nil {
		return v, err
	}
	signature, err := signing.Sign(object, leaf.Key, leaf.Cert, middle.Cert)
	if err != nil {
		return v, err
	}
	return v, v.measure(signing.Bundle{Object: object, Signature: signature}, root.certPEM, leaf.Key, 3, rounds)
}

// measure verifies b with a store of one certificate, and in turns its floor of
// so many operations with key.
func (v *verification) measure(b signing.Bundle, certPEM []byte, key crypto.Signer, operations, rounds int) error {
	trust, err := signing.ParseTrust(map[string][]byte{"bench.pem": certPEM})
	if err != nil {
		return err
	}
	object, err := signing.Contents(b.Object)
	if err != nil {
		return err
	}
	operation, err := primitive(object, key)
	if err != nil {
		return err
	}
	for range rounds {
		began := time.Now()
		digest := sha256.Sum256(object)
		for range operations {
			if !operation(digest[:]) {
				return errors.New("the bare primitive does not verify")
			}
		}
		between := time.Now()
		proof, err := trust.Verify(b, nil, between)
		if err != nil {
			return err
		}
		v.floor, v.verify = append(v.floor, between.Sub(began)), append(v.verify, time.Since(between))
		if proof.Digest() != digest {
			return errors.New("other bytes were verified")
		}
	}
	return nil
}

// primitive signs object with the standard library, and returns what verifies that.
func primitive(object []byte, key crypto.Signer) (operation func(digest []byte) bool, err error) {
	digest := sha256.Sum256(object)
	switch public := key.Public().(type) {
	case *rsa.PublicKey:
		signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		return func(digest []byte) bool { return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest, signature) == nil }, err
	case *ecdsa.PublicKey:
		signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		return func(digest []byte) bool { return ecdsa.VerifyASN1(public, digest, signature) }, err
	case ed25519.PublicKey: // signs the bytes themselves
		signature, err := key.Sign(rand.Reader, object, crypto.Hash(0))
		return func([]byte) bool { return ed25519.Verify(public, object, signature) }, err
	}
	return nil, fmt.Errorf("key of an unknown kind (%T)", key)
}
