package main_test

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestUntrustedKeepsNobodyWaiting: an object that takes all the time that the
// confined process gets is waited for by whoever asked for it, and by nobody else.
func TestUntrustedKeepsNobodyWaiting(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, untrusted)
	cgroup := testenv.Cgroup(t)
	h.Manifest("count", connCount(cgroup))
	h.Manifest("other", connCount(cgroup))
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	h.Start()
	for what, ask := range map[string]func() error{
		"load": func() error { _, err := h.Client().Load(context.Background(), "count"); return err },
		"reload": func() error {
			h.Manifest("count", strings.Replace(connCount(cgroup), `start = "request"`, `start = "boot"`, 1))
			_, err := h.Client().Reload(context.Background())
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			load(t, h, "other")
			stopped := parserOf(t, h)
			must(t, syscall.Kill(stopped, syscall.SIGSTOP))
			refused := make(chan error)
			began := time.Now()
			go func() { refused <- ask() }()
			time.Sleep(500 * time.Millisecond)
			if _, err := h.Client().Unload(context.Background(), "other", api.UnloadRequest{}); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("another's unload took %s", took)
			}
			if err := <-refused; err == nil || !strings.Contains(err.Error(), "no answer within 10s") {
				t.Errorf("it was not refused: %v", err)
			}
			if took := time.Since(began); took > 18*time.Second {
				t.Errorf("refused after %s: it was parsed twice", took)
			}
		})
	}
}
