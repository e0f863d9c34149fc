//go:build race

package main

// slow is how much slower everything is under the race detector, passphrases above all.
const slow = 6
