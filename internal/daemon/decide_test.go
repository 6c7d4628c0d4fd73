package daemon

import (
	"errors"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/config"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/signing"
)

func TestDecide(t *testing.T) {
	digest := [32]byte{1}
	boot := declared{manifest: manifest.Manifest{Name: "a", Start: manifest.StartBoot, Digest: digest, Version: 2}}
	request := declared{manifest: manifest.Manifest{Name: "a", Start: manifest.StartRequest, Digest: digest}}
	edited := declared{manifest: manifest.Manifest{Name: "a", Start: manifest.StartBoot, Digest: [32]byte{2}}}
	broken := declared{err: errors.New("line 3")}
	running := func(p proof) *collection {
		return &collection{record: pinning.Record{ManifestDigest: hexDigest(digest), ObjectDigest: "aa", Version: 1}, proof: p}
	}
	good := running(proof{verdict: string(signing.OK), digest: "aa"})
	replacedFile := running(proof{verdict: string(signing.OK), digest: "bb"})
	tampered := running(proof{verdict: string(signing.BadSignature)})

	for _, c := range []struct {
		name     string
		dc       declared
		declared bool
		runs     *collection
		removed  config.Removed
		want     api.Action // "": nothing to do
	}{
		{"new at boot", boot, true, nil, config.RemovedUnload, api.ActionLoad},
		{"waits to be asked for", request, true, nil, config.RemovedUnload, ""},
		{"asked for, and runs", request, true, good, config.RemovedUnload, api.ActionKeep},
		{"runs as declared", boot, true, good, config.RemovedUnload, api.ActionKeep},
		{"manifest edited", edited, true, good, config.RemovedUnload, api.ActionReplace},
		{"object replaced by a signed one", boot, true, replacedFile, config.RemovedUnload, api.ActionReplace},
		{"object tampered with", boot, true, tampered, config.RemovedUnload, api.ActionKeep},
		{"manifest gone", declared{}, false, good, config.RemovedUnload, api.ActionUnload},
		{"manifest gone, told to keep", declared{}, false, good, config.RemovedKeep, api.ActionKeep},
		{"manifest broken, nothing runs", broken, true, nil, config.RemovedUnload, api.ActionRefuse},
		{"manifest broken while it runs", broken, true, good, config.RemovedUnload, api.ActionRefuse},
	} {
		got, ok := decide(c.dc, c.declared, c.runs, c.removed, config.RevokedUnload)
		if ok != (c.want != "") || got.Action != c.want {
			t.Errorf("%s: %q, want %q", c.name, got.Action, c.want)
		}
	}
}

// What is revoked is replaced where what is on disk is good, and else goes where
// the policy says so, whatever its manifest says.
func TestDecideRevoked(t *testing.T) {
	there := declared{manifest: manifest.Manifest{Name: "a", Start: manifest.StartBoot}}
	ok, revoked := string(signing.OK), string(signing.Revoked)
	for _, c := range []struct {
		dc           declared
		declared     bool
		verdict      string
		unload, keep api.Action
	}{
		{there, true, ok, api.ActionReplace, api.ActionReplace},
		{there, true, revoked, api.ActionUnload, api.ActionKeep},
		{there, true, "", api.ActionUnload, api.ActionKeep},
		{declared{err: errors.New("line 3")}, true, ok, api.ActionUnload, api.ActionRefuse},
		{declared{}, false, ok, api.ActionUnload, api.ActionKeep},
	} {
		runs := &collection{revoked: "key 00 is revoked", proof: proof{verdict: c.verdict}}
		runs.record.ManifestDigest = hexDigest(c.dc.manifest.Digest)
		for policy, want := range map[config.Revoked]api.Action{config.RevokedUnload: c.unload, config.RevokedKeep: c.keep} {
			got, _ := decide(c.dc, c.declared, runs, config.RemovedKeep, policy)
			if got.Action != want || want == api.ActionUnload && got.Reason != runs.revoked {
				t.Errorf("%+v, %q, %s: %+v", c.dc, c.verdict, policy, got)
			}
		}
	}
}
