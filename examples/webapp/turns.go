package main

import (
	"context"
	"time"
)

const (
	mostTurns = 10
	turnTime  = time.Second     // that a turn takes at least
	turnWait  = 2 * time.Second // for one
)

// turns bound how many do something at once, and by the time that a turn takes at
// least, how many in a second: anybody may ask for a sign-in, and each costs
// requests to Astravue. They are shared by all, so that one who asks without
// end keeps others waiting; where the addresses of browsers are known, in a
// proxy in front of this, is the place to tell them apart. Safe for concurrent use.
type turns chan struct{}

func newTurns() turns { return make(turns, mostTurns) }

// take waits for a turn, and reports whether there was one.
func (t turns) take(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, turnWait)
	defer cancel()
	select {
	case t <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// giveBack gives a turn back, once that has taken its time.
func (t turns) giveBack() {
	time.AfterFunc(turnTime, func() { <-t })
}
