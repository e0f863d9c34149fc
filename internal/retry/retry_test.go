package retry

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestFor(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	full := errors.New("disk full")
	for name, test := range map[string]struct {
		limit, takes time.Duration
		succeeds     int // the attempt, 0 for none
		want         []time.Duration
	}{
		"the first succeeds":  {limit: 8 * s, succeeds: 1, want: []time.Duration{0}},
		"the third succeeds":  {limit: 8 * s, succeeds: 3, want: []time.Duration{0, 50 * ms, 150 * ms}},
		"none succeeds":       {limit: 2 * s, want: []time.Duration{0, 50 * ms, 150 * ms, 350 * ms, 750 * ms, 1550 * ms, 2 * s}},
		"pauses end at 1 s":   {limit: 3 * s, succeeds: 7, want: []time.Duration{0, 50 * ms, 150 * ms, 350 * ms, 750 * ms, 1550 * ms, 2550 * ms}},
		"an attempt is slow":  {limit: s, takes: 2 * s, want: []time.Duration{0}},
		"attempts take time":  {limit: s, takes: 400 * ms, want: []time.Duration{0, 450 * ms, 950 * ms}},
		"there is no time":    {limit: 0, want: []time.Duration{0}},
		"the limit is passed": {limit: -s, want: []time.Duration{0}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var got []time.Duration
				err := For(test.limit, func() error {
					got = append(got, time.Since(start))
					time.Sleep(test.takes)
					if len(got) == test.succeeds {
						return nil
					}
					return full
				})
				if !slices.Equal(got, test.want) {
					t.Errorf("tried at %v, want %v", got, test.want)
				}
				if (err == nil) != (test.succeeds > 0) || err != nil && err != full {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}
