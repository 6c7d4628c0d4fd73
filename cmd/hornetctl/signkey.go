package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/term"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/signing"
)

// maxRawSignature is more than an RSA key of 8192 bits makes.
const maxRawSignature = 4 << 10

// keyFile reads a private key. Where it is encrypted the passphrase is the first
// line of passphraseFile, or else asked for on the terminal.
func (c *ctl) keyFile(ctx context.Context, file, passphraseFile string) (crypto.Signer, error) {
	b, err := readKey(file)
	if err != nil {
		return nil, err
	}
	key, err := signing.ParseEncryptedKey(b, func() ([]byte, error) {
		if passphraseFile != "" {
			return firstLine(passphraseFile)
		}
		return c.askPassphrase(ctx, "Passphrase for "+file+": ")
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}

// readKey reads the file of a private key. As ssh does, it refuses one of the
// caller's own that others can get at, encrypted or not; a pipe is nobody's.
func readKey(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, bare(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, bare(err)
	}
	b, err := readOpen(f, maxKey)
	if err != nil || !bytes.Contains(b, []byte("PRIVATE KEY-----")) {
		return b, err // what it is instead is told by who parses it
	}
	mode, owner := info.Mode(), info.Sys().(*syscall.Stat_t).Uid
	if mode.IsRegular() && int(owner) == os.Geteuid() && mode.Perm()&0o077 != 0 {
		return nil, remedy.With(fmt.Errorf("%s: others can use this private key (mode %04o)", file, mode.Perm()), "chmod 600 %s, and make a new key if somebody did", file)
	}
	return b, nil
}

// firstLine is the passphrase in a file.
func firstLine(file string) ([]byte, error) {
	secret, err := readFile(file, maxKey)
	line, _, _ := bytes.Cut(secret, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r")), err
}

// newPassphrase is what a new key is encrypted with.
func (c *ctl) newPassphrase(ctx context.Context, file, key string) ([]byte, error) {
	if file != "" {
		return firstLine(file)
	}
	first, err := c.askPassphrase(ctx, "New passphrase for "+key+": ")
	if err != nil {
		return nil, err
	}
	second, err := c.askPassphrase(ctx, "The same again: ")
	if err == nil && !bytes.Equal(first, second) {
		err = remedy.With(errors.New("the two passphrases are not the same: no key was made"), "try again")
	}
	return first, err
}

// askPassphrase asks on the terminal the process belongs to, so that the key and
// all else may come through pipes. When ctx ends, which Ctrl-C does, the terminal
// is as it was.
func (c *ctl) askPassphrase(ctx context.Context, prompt string) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, remedy.With(errors.New("there is no terminal to ask for the passphrase on"), "give it with --passphrase-file")
	}
	fd := int(tty.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("passphrase: %w", err), tty.Close())
	}
	type answer struct {
		secret []byte
		err    error
	}
	answers := make(chan answer, 1)
	fmt.Fprint(tty, escape(prompt))
	go func() {
		secret, err := term.ReadPassword(fd)
		answers <- answer{secret, err}
	}()
	select {
	case a := <-answers:
		fmt.Fprintln(tty)
		if err := errors.Join(a.err, tty.Close()); err != nil {
			return nil, fmt.Errorf("passphrase: %w", err)
		}
		return a.secret, nil
	case <-ctx.Done(): // it still reads, so the terminal stays open
		err := term.Restore(fd, before)
		fmt.Fprintln(tty)
		return nil, errors.Join(errors.New("passphrase: interrupted"), err)
	}
}

// commandKey is a key that another program holds: a token, a key service.
type commandKey struct {
	command string
	public  crypto.PublicKey
	stderr  io.Writer
}

// name is the command's first word, for messages. What follows, and the value of a
// variable in front of it, may be a token's PIN, and messages end up in logs.
func (k commandKey) name() string {
	word, rest, _ := strings.Cut(strings.TrimSpace(k.command), " ")
	if variable, _, ok := strings.Cut(word, "="); ok {
		return variable + "=…"
	}
	if rest != "" {
		word += " …"
	}
	return word
}

func (k commandKey) Public() crypto.PublicKey { return k.public }

// Sign runs the command with what is to be signed on its standard input: the
// SHA-256, or with Ed25519, which hashes itself, all of it. What the command
// makes is verified before it is used (cms.Sign).
func (k commandKey) Sign(_ io.Reader, toSign []byte, _ crypto.SignerOpts) ([]byte, error) {
	var out bytes.Buffer
	cmd := exec.Command("/bin/sh", "-c", k.command)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(toSign), &out, k.stderr
	if err := cmd.Run(); err != nil {
		return nil, remedy.With(fmt.Errorf("%q: %w", k.name(), err), "it gets the digest on its standard input and writes the raw signature; try it alone")
	}
	if out.Len() == 0 || out.Len() > maxRawSignature {
		return nil, remedy.With(fmt.Errorf("%q: it wrote %d bytes, a signature has 1 to %d", k.name(), out.Len(), maxRawSignature),
			"have it write the raw signature to its standard output, and nothing else")
	}
	return out.Bytes(), nil
}

// key finds the private key of cert.
func (o signOptions) key(ctx context.Context, c *ctl, cert *x509.Certificate) (crypto.Signer, error) {
	if o.command != "" {
		return commandKey{o.command, cert.PublicKey, c.stderr}, nil
	}
	return c.keyFile(ctx, o.keyFile, o.passphraseFile)
}
