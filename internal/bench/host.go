package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/signing"
)

// host is a hornetd with its own configuration, and its life.
type host struct {
	dir     string
	binary  string
	targets int           // and manifests; the last ones are the spares
	notify  *net.UnixConn // where the daemon says READY=1
	cmd     *exec.Cmd
	ended   chan struct{} // closed when cmd has
	said    bytes.Buffer
	client  *api.Client
}

func collectionName(i int) string { return fmt.Sprintf("bench-%04d", i) }

// newHost writes the configuration, a trusted signer, the object with its
// signature, and a manifest for each of n targets.
func newHost(w *world, l workload, binary string, n int) (*host, error) {
	h := &host{dir: filepath.Join(w.dir, l.name), binary: binary, targets: n}
	socket := filepath.Join(h.dir, "hornetd.sock")
	h.client = api.New(socket)
	object, err := os.ReadFile(l.object)
	if err != nil {
		return nil, err
	}
	cert, signature, err := sign(object)
	if err != nil {
		return nil, err
	}
	name := filepath.Base(l.object)
	files := map[string][]byte{
		"trust.d/bench.pem":         cert,
		"hornet.d/" + name:          object,
		"hornet.d/" + name + ".p7s": signature,
		"hornetd.toml": fmt.Appendf(nil, "[paths]\nmanifests = [%q]\ntrust = %q\nbpffs = %q\nstate = %q\n[api]\nsocket = %q\ngroup = \"0\"\n[log]\nlevel = \"warn\"\n",
			filepath.Join(h.dir, "hornet.d"), filepath.Join(h.dir, "trust.d"), w.bpffs, filepath.Join(h.dir, "state"), socket),
	}
	for i := range n {
		files["hornet.d/"+collectionName(i)+".toml"] = l.manifest(i)
	}
	if err := os.MkdirAll(filepath.Join(h.dir, "state"), 0o700); err != nil {
		return nil, err
	}
	for name, b := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(h.dir, name)), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(h.dir, name), b, 0o644); err != nil {
			return nil, err
		}
	}
	h.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(h.dir, "notify"), Net: "unixgram"})
	return h, err
}

// sign makes a key, signs with it and forgets it.
func sign(object []byte) (certPEM, signature []byte, err error) {
	keyPEM, certPEM, err := signing.Keygen("bench", "ecdsa")
	if err != nil {
		return nil, nil, err
	}
	key, err := signing.ParseKey(keyPEM)
	if err != nil {
		return nil, nil, err
	}
	cert, err := signing.ParseCertificate(certPEM)
	if err != nil {
		return nil, nil, err
	}
	signature, err = signing.Sign(object, key, cert)
	return certPEM, signature, err
}

// start runs hornetd and returns the time from before exec to READY=1.
func (h *host) start() (time.Duration, error) {
	h.said.Reset()
	h.cmd = exec.Command(h.binary, "--config", filepath.Join(h.dir, "hornetd.toml"))
	h.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+h.notify.LocalAddr().String())
	h.cmd.Stdout, h.cmd.Stderr = &h.said, &h.said
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := h.notify.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := h.cmd.Start(); err != nil {
		return 0, err
	}
	h.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		cmd.Wait()
		h.notify.SetReadDeadline(time.Now()) // there is nothing to wait for any more
		close(ended)                         // the next start sets a deadline of its own
	}(h.cmd, h.ended)
	for buf := make([]byte, 4096); ; {
		n, err := h.notify.Read(buf)
		if err != nil {
			h.kill()
			return 0, fmt.Errorf("hornetd is not ready: %w\n%s", err, h.said.String())
		}
		if strings.Contains(string(buf[:n]), "READY=1") {
			return time.Since(began), nil
		}
	}
}

// kill ends hornetd as a crash would.
func (h *host) kill() {
	if h.cmd == nil {
		return
	}
	h.client.Close()
	h.cmd.Process.Kill()
	<-h.ended
	h.cmd = nil
}

func (h *host) close() {
	h.kill()
	h.notify.Close()
}

// fill loads collections until n run.
func (h *host) fill(ctx context.Context, from, n int) error {
	for i := from; i < n; i++ {
		if _, err := h.client.Load(ctx, collectionName(i)); err != nil {
			return fmt.Errorf("load %s: %w", collectionName(i), err)
		}
	}
	return h.expect(ctx, n)
}

// expect checks that n collections run and that nothing else is the matter.
func (h *host) expect(ctx context.Context, n int) error {
	s, err := h.client.Status(ctx)
	if err != nil {
		return err
	}
	if s.Collections.Running != n || len(s.Problems) > 0 {
		return fmt.Errorf("%+v running, want %d; problems %+v", s.Collections, n, s.Problems)
	}
	return nil
}

// rss returns VmRSS in KiB after the daemon had nothing to do for a while.
func (h *host) rss(ctx context.Context, settle time.Duration) (float64, error) {
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 64)
		}
	}
	return 0, errors.New("no VmRSS")
}
