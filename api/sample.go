package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
)

// Sample is what a program put into a ring buffer or a perf event array, as the
// bytes it wrote; what they mean is between it and the reader. In a perf event
// array up to seven bytes follow that are none of its own (the kernel pads).
//
// Seq counts what the daemon read and what it knows to be lost. It cannot know
// what a program could not put into a full ring buffer: programs count that.
type Sample struct {
	Seq  uint64 `json:"seq"`            // 1, 2, 3, …
	Data []byte `json:"data,omitempty"` // in JSON base64
	CPU  *int   `json:"cpu,omitempty"`  // where it was put into a perf event array
	Lost uint64 `json:"lost,omitempty"` // samples that are missing before this one
	End  string `json:"end,omitempty"`  // of the last, which has no data: why there are no more
}

// MaxSampleBytes bounds one record of a stream of samples.
const MaxSampleBytes = 2 << 20

// Samples yields the samples of a map from now on. Reading takes them away: only
// one can read a map at a time, another's error is of kind conflict. Whoever
// reads too slowly misses samples, and Lost says how many. The last sample has
// End set, unless an error, which comes last too, took its place. Leaving the
// loop or ending the context closes the stream.
func (c *Client) Samples(ctx context.Context, collection, mapName string) iter.Seq2[Sample, error] {
	return func(yield func(Sample, error) bool) {
		resp, err := c.send(ctx, RouteStream, []string{collection, mapName}, nil, nil, EventsType)
		if err != nil {
			yield(Sample{}, err)
			return
		}
		defer resp.Body.Close()
		records := &eventReader{bufio.NewReaderSize(resp.Body, MaxSampleBytes)}
		for {
			record, err := records.record()
			if errors.Is(err, io.EOF) {
				return
			}
			if err == nil && len(record) == 0 {
				continue
			}
			var s Sample
			if err == nil {
				err = json.Unmarshal(record, &s)
			}
			if err != nil {
				yield(Sample{}, c.broken(ctx, err))
				return
			}
			if !yield(s, nil) {
				return
			}
		}
	}
}
