package daemon

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/policy"
	"github.com/hornetd/hornetd/signing"
)

// newRecord describes what a load made, for the map that is pinned beside it.
// Ids and tags are what the kernel said, targets what the manifest resolved to.
func newRecord(who Peer, m manifest.Manifest, v signing.Verified, spec *ebpf.CollectionSpec,
	programs []loader.ProgramState, maps []loader.MapState, links *attached) (pinning.Record, error) {

	memory, err := policy.Memory(m, spec)
	if err != nil {
		return pinning.Record{}, err
	}
	digest := v.Digest()
	r := pinning.Record{
		Name: m.Name, Description: m.Description, Version: m.Version, Start: string(m.Start),
		ManifestFile: m.File, ManifestDigest: hexDigest(m.Digest),
		ObjectFile: m.Object.Path, ObjectDigest: hexDigest(digest),
		Signer:          recordSigner(v.Signer()),
		SignatureFormat: v.Format(), Covers: v.Covers(), CheckedBy: "hornetd", Verdict: string(v.Verdict()),
		Requires: m.Requires,
		SignedAt: v.SignedAt().UTC(),
		Memory:   memory,
		LoadedAt: time.Now().UTC(),
		Caller:   pinning.Caller{UID: who.UID, GID: who.GID},
	}
	for _, dropIn := range v.DropIns() {
		r.TextDigest = hexDigest(m.TextDigest)
		one := pinning.RecordDropIn{File: dropIn.File, SHA256: hexDigest(dropIn.Digest)}
		if dropIn.Signer.Name != "" {
			one.Signer = new(recordSigner(dropIn.Signer))
		}
		r.DropIns = append(r.DropIns, one)
	}
	for _, s := range maps {
		r.Maps = append(r.Maps, pinning.RecordMap{Name: s.Name, Type: s.Type, ID: s.ID, Class: string(s.Class),
			Shared: m.Maps[s.Name].Shared, Frozen: s.Frozen, ProgramWrites: s.Writes, SHA256: s.SHA256, HashBy: s.HashBy,
			KeySize: s.KeySize, ValueSize: s.ValueSize, MaxEntries: s.MaxEntries})
	}
	for _, s := range programs {
		r.Programs = append(r.Programs, pinning.RecordProgram{Name: s.Name, Type: s.Type, AttachType: s.AttachType, ID: s.ID, Tag: s.Tag})
	}
	r.Links, err = links.records()
	return r, err
}

// records describes the links for a record. Ids are what the kernel says.
func (a *attached) records() ([]pinning.RecordLink, error) {
	var all []pinning.RecordLink
	for _, t := range a.targets {
		state, err := loader.Describe(a.links[t.Link])
		if err != nil {
			return nil, fmt.Errorf("link %s: %w", t.Link, err)
		}
		target, err := json.Marshal(t)
		if err != nil {
			return nil, fmt.Errorf("link %s: %w", t.Link, err)
		}
		all = append(all, pinning.RecordLink{Name: t.Link, ID: uint32(state.ID), Kind: t.Kind,
			AttachType: t.AttachType, Program: t.Program, ProgramID: uint32(state.ProgramID), Target: target})
	}
	return all, nil
}

// targetOf returns where a recorded link is.
func targetOf(l pinning.RecordLink) (t loader.Target, err error) {
	if err := json.Unmarshal(l.Target, &t); err != nil {
		return t, fmt.Errorf("link %s: target: %w", l.Name, err)
	}
	return t, nil
}

func recordSigner(s signing.Signer) pinning.Signer {
	r := pinning.Signer{Name: s.Name, Subject: s.Subject, KeyID: s.KeyID, KeySHA256: s.KeySHA256,
		Algorithm: s.Algorithm, NotBefore: s.NotBefore, NotAfter: s.NotAfter}
	for _, k := range s.Chain {
		r.Chain = append(r.Chain, pinning.Key(k))
	}
	return r
}

func hexDigest(d [32]byte) string { return hex.EncodeToString(d[:]) }

// unchanged answers a load of what runs already: fine where the manifest is
// the one it was loaded from.
func (c *collection) unchanged(m manifest.Manifest) error {
	if c.record.ManifestDigest == hexDigest(m.Digest) {
		return c.leased()
	}
	return remedy.With(fmt.Errorf("collection %q: %w: it runs from another version of its manifest", m.Name, pinning.ErrExist),
		"hornetctl reload replaces it; hornetctl plan shows how")
}
