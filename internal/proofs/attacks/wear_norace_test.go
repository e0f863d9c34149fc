//go:build !race

package attacks

const slower = 1
