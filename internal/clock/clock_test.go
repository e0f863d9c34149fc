package clock_test

import (
	"testing"
	"time"

	"github.com/astravue/mcp-client-go/internal/clock"
)

func TestAdvanceMovesNowAndUndoTakesItBack(t *testing.T) {
	const hour = time.Hour
	undo := clock.Advance(hour)
	if d := time.Until(clock.Now()); d < hour-time.Minute || d > hour {
		t.Errorf("the clock is %v ahead", d)
	}
	undoBack := clock.Advance(-3 * hour)
	if d := time.Until(clock.Now()); d > -2*hour+time.Minute {
		t.Errorf("the clock is %v ahead", d)
	}
	undoBack()
	undo()
	if d := time.Until(clock.Now()).Abs(); d > time.Minute {
		t.Errorf("the clock is %v off", d)
	}
}

// A monotonic reading stands still in suspend and would win over the wall.
func TestNowHasNoMonotonicReading(t *testing.T) {
	if now := clock.Now(); now != now.Round(0) {
		t.Errorf("%v has a monotonic reading", now)
	}
}
