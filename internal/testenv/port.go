package testenv

import (
	"math/rand/v2"
	"net"
	"strconv"
)

// FreePort returns a port of 127.0.0.1 that nobody listens on, for a program that cannot choose
// one itself. It is none that the system gives to who asks for any, nor one of the callback's: a
// Java program takes half a minute to come to listen, in which other tests ask for thousands.
func FreePort() (port string, err error) {
	for range 100 {
		port = strconv.Itoa(10_000 + rand.IntN(10_000))
		l, e := net.Listen("tcp", "127.0.0.1:"+port)
		if err = e; err == nil {
			return port, l.Close()
		}
	}
	return "", err
}
