// Package examples holds programs to try hornetd with, a folder each. Its tests
// run every one of them as its manifest says and look for the effect.
package examples

//go:generate ../scripts/bpf-compile conn-count/conn_count.bpf.c exec-count/exec_count.bpf.c map-fd/map_fd.bpf.c tcx-count/tcx_count.bpf.c toctou/toctou.bpf.c xdp-drop/xdp_drop.bpf.c
