package tokenstore

import (
	"encoding/json"
	"time"
)

// A Mark is written before a refresh token is sent and removed when the answer
// is saved, so that a process that finds one knows that the token may be spent.
// Besides it holds what processes have to remember together. Under a key that
// has no record it is a note: of how often something was done, in Tries, and
// since when, in At. It never holds a secret.
type Mark struct {
	// Pending says that a refresh token was sent and no answer was saved.
	Pending    bool      `json:"pending,omitempty"`
	Generation string    `json:"generation,omitempty"` // of the grant whose token was sent
	At         time.Time `json:"at,omitzero"`          // when it was sent
	Tries      int       `json:"tries,omitempty"`      // how often

	// NotBefore is the end of the back-off that all processes share.
	NotBefore time.Time `json:"not_before,omitzero"`
	// Failures counts failed flights since the last success.
	Failures int `json:"failures,omitempty"`

	// NewIssuerAt is when a sign-in that nobody asked for was last begun at
	// another issuer than the grant's. It is of no generation: refreshes and
	// sign-ins keep it, until somebody asks for a sign-in.
	NewIssuerAt time.Time `json:"new_issuer_at,omitzero"`
}

func encodeMark(m Mark) []byte {
	data, err := json.Marshal(m)
	if err != nil {
		// A Mark holds nothing that JSON cannot carry but a year beyond 9999.
		data, _ = json.Marshal(Mark{Pending: m.Pending, Generation: m.Generation, Tries: m.Tries, Failures: m.Failures})
	}
	return data
}

func decodeMark(data []byte) Mark {
	var m Mark
	if json.Unmarshal(data, &m) != nil {
		return Mark{Pending: true}
	}
	return m
}
