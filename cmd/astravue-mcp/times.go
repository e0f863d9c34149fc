package main

import (
	"fmt"
	"strings"
	"time"
)

// day prints a time in the future and how far away it is.
func day(t, now time.Time) string {
	return fmt.Sprintf("%s (in %s)", t.Local().Format("2006-01-02 15:04"), span(t.Sub(now)))
}

// span prints a duration, from a minute on without seconds.
func span(d time.Duration) string {
	if d > time.Minute {
		d = d.Round(time.Minute)
	}
	s := d.Round(time.Second).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
