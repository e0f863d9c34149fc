// Package retry tries again to save tokens that a server has already issued.
// Their code or refresh token is spent, so a save that is given up is a session
// lost.
package retry

import "time"

const (
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
)

// For calls try until it returns nil, for at most limit, and returns its last
// error. Pauses double from 50 ms to 1 s. The last pause is cut short so that
// the last attempt begins when limit ends; For does not interrupt an attempt.
func For(limit time.Duration, try func() error) error {
	end := time.Now().Add(limit)
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		if err := try(); err == nil || !time.Now().Before(end) {
			return err
		}
		time.Sleep(min(pause, time.Until(end)))
	}
}
