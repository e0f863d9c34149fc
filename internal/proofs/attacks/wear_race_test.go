//go:build race

package attacks

// slower is how much more of the processor everything takes with the race detector.
const slower = 6
