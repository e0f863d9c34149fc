package main

import (
	"context"
	"time"
)

const (
	mostTurns = 10
	turnTime  = time.Second     // a turn takes no less
	turnWait  = 2 * time.Second // nobody waits longer for one
)

// turns limit how many requests do something at once, and how many in a second, since a turn takes
// at least turnTime. Anybody may begin a sign-in, and each costs requests to Astravue. All share the
// turns, so one browser that asks without end keeps the others waiting. To treat browsers apart, use
// a proxy in front that knows their addresses. Safe for concurrent use.
type turns chan struct{}

func newTurns() turns { return make(turns, mostTurns) }

// take waits for a turn and reports whether it got one.
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

// giveBack gives a turn back turnTime later.
func (t turns) giveBack() {
	time.AfterFunc(turnTime, func() { <-t })
}
