package audit

import (
	"testing"
	"time"
)

// BenchmarkAppend is one durable record; what the disk took of it is printed
// apart.
func BenchmarkAppend(b *testing.B) {
	l := openLog(b, logDir(b))
	var synced time.Duration
	b.ReportAllocs()
	for b.Loop() {
		r, err := l.Append(exampleRecord())
		must(b, err)
		synced += r.Synced
	}
	b.ReportMetric(float64(synced.Nanoseconds())/float64(b.N), "sync-ns/op")
}

// BenchmarkOpen64MiB is what a log of the size at which it is sealed costs at
// start.
func BenchmarkOpen64MiB(b *testing.B) {
	dir := logDir(b)
	writeLines(b, dir, 16<<10, 4000)
	for b.Loop() {
		l, err := Open(dir)
		must(b, err)
		must(b, l.Close())
	}
}
