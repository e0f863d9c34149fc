package mcpclient

import "sync"

// stepUps counts, for each operation, the sign-ins for more scopes since it last
// succeeded. A server that always asks for more must not have the user sign in
// for ever. The zero value is ready. Safe for concurrent use.
type stepUps struct {
	mu    sync.Mutex // guards tries
	tries map[string]tries
}

type tries struct {
	count      int
	generation string // of the last token that did not suffice
}

// try counts one more and reports whether that is within limit. Requests that
// are refused with the token of one generation share a sign-in, and count once.
func (u *stepUps) try(operation, generation string, limit int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	// Operations come from the caller and not from the server. So the bound is for a
	// caller that makes up tools, and a count that starts anew does no harm.
	if u.tries == nil || len(u.tries) > 1000 {
		u.tries = make(map[string]tries)
	}
	t := u.tries[operation]
	if t.generation != generation {
		t = tries{t.count + 1, generation}
		u.tries[operation] = t
	}
	return t.count <= limit
}

// succeed forgets the count: the token has all that the operation needs.
func (u *stepUps) succeed(operation string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.tries, operation)
}
