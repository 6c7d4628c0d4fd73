package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
)

// errNoticed is what a bare loader returns when its check finds other contents.
var errNoticed = errors.New("the map does not hold what was signed")

// race lets a bare loader run until it has met the attacker in that many
// rounds, and longer (up to 100 times) while the attacker has not won once.
func race(rounds int, load func() (uint32, error)) (o outcome, err error) {
	for i := 0; i < rounds || o.wrong == 0 && i < 100*rounds; i++ {
		verdict, err := load()
		if err != nil && !errors.Is(err, errNoticed) {
			return o, err
		}
		o.count(verdict, err)
	}
	return o, nil
}

// checkLoad is how it is done bare: fill the map, check it, load the program.
func checkLoad() (uint32, error) {
	return bare(func(*ebpf.Map) error { return nil })
}

// checkFreezeLoad freezes as well, but after the check.
func checkFreezeLoad() (uint32, error) {
	return bare(freeze)
}

// bare loads the object with a filled and checked map, and returns the verdict
// of its program.
func bare(seal func(*ebpf.Map) error) (verdict uint32, err error) {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return 0, err
	}
	policy, err := ebpf.NewMap(spec.Maps[mapName])
	if err != nil {
		return 0, err
	}
	defer policy.Close()
	if err := policy.Put(uint32(0), signed); err != nil {
		return 0, err
	}
	if err := check(policy); err != nil {
		return 0, err
	}
	// Checked, so it is safe to load. It is not.
	if err := seal(policy); err != nil {
		return 0, err
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		MapReplacements: map[string]*ebpf.Map{mapName: policy},
	})
	if err != nil {
		return 0, err
	}
	defer coll.Close()
	return ask(coll.Programs["verdict"])
}

// vendor signs the object together with the contents of its map.
var vendor, signature = func() (ed25519.PublicKey, []byte) {
	public, private, _ := ed25519.GenerateKey(nil) // never fails
	return public, ed25519.Sign(private, message(signed))
}()

func message(contents uint32) []byte {
	return binary.NativeEndian.AppendUint32(bytes.Clone(object), contents)
}

// check verifies the signature over the object and over what the map holds.
func check(policy *ebpf.Map) error {
	var contents uint32
	if err := policy.Lookup(uint32(0), &contents); err != nil {
		return err
	}
	if !ed25519.Verify(vendor, message(contents), signature) {
		return errNoticed
	}
	return nil
}

// freeze makes the map read-only for system calls. A write that is on its way
// makes the kernel answer EBUSY.
func freeze(m *ebpf.Map) error {
	for {
		if err := m.Freeze(); !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
}

// ask runs the program on an empty Ethernet frame and returns what it answers.
func ask(p *ebpf.Program) (uint32, error) {
	verdict, err := p.Run(&ebpf.RunOptions{Data: make([]byte, 14)})
	if err != nil {
		return 0, fmt.Errorf("run: %w", err)
	}
	return verdict, nil
}

// raceHornetd has hornetd load the manifest that often and asks the program
// that then is in the kernel, not hornetd, what it does.
func raceHornetd(rounds int, socket string) (o outcome, err error) {
	client := api.New(socket)
	defer client.Close()
	var noticed error
	for range rounds {
		verdict, err := askHornetd(client)
		var refused *api.Error
		if errors.As(err, &refused) && refused.Kind == api.KindKernel {
			noticed = err
		} else if err != nil {
			return o, err
		}
		o.count(verdict, err)
	}
	if o.noticed == rounds {
		return o, fmt.Errorf("hornetd did not load once: %w", noticed)
	}
	return o, nil
}

func askHornetd(client *api.Client) (verdict uint32, err error) {
	ctx := context.Background()
	c, err := client.Load(ctx, "toctou")
	if err != nil {
		return 0, err
	}
	defer func() {
		_, e := client.Unload(ctx, "toctou", api.UnloadRequest{})
		err = errors.Join(err, e)
	}()
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(c.Programs[0].ID))
	if err != nil {
		return 0, fmt.Errorf("program %d: %w", c.Programs[0].ID, err)
	}
	defer p.Close()
	return ask(p)
}
