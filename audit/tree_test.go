package audit

import (
	"bytes"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// A Merkle tree over the lines as they are proves every record, and that the
// log only grew.
func TestLeavesMakeATree(t *testing.T) {
	l := openLog(t, logDir(t))
	const n = 13
	appendN(t, l, n)

	var hashes []tlog.Hash
	store := tlog.HashReaderFunc(func(indexes []int64) (out []tlog.Hash, err error) {
		for _, i := range indexes {
			out = append(out, hashes[i])
		}
		return out, nil
	})
	var leaves [][]byte
	var heads []tlog.Hash
	must(t, l.Read(1, func(r Record, leaf []byte) error {
		more, err := tlog.StoredHashes(int64(r.Seq-1), leaf, store)
		if err != nil {
			return err
		}
		hashes = append(hashes, more...)
		leaves = append(leaves, bytes.Clone(leaf))
		head, err := tlog.TreeHash(int64(r.Seq), store)
		heads = append(heads, head)
		return err
	}))
	if len(leaves) != n {
		t.Fatalf("%d leaves", len(leaves))
	}
	head := heads[n-1]
	for i, leaf := range leaves {
		proof, err := tlog.ProveRecord(n, int64(i), store)
		must(t, err)
		must(t, tlog.CheckRecord(proof, n, head, int64(i), tlog.RecordHash(leaf)))
		changed := bytes.Replace(leaf, []byte(`"uid":0`), []byte(`"uid":1`), 1)
		if tlog.CheckRecord(proof, n, head, int64(i), tlog.RecordHash(changed)) == nil {
			t.Errorf("record %d: another caller is proved as well", i+1)
		}
		grown, err := tlog.ProveTree(n, int64(i+1), store)
		must(t, err)
		must(t, tlog.CheckTree(grown, n, head, int64(i+1), heads[i]))
	}
}
