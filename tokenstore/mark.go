package tokenstore

import (
	"encoding/json"
	"time"
)

// A Mark is what the processes that share a grant know of its last refresh. It
// lies beside the record, under the same lock, and holds no secret. The zero
// Mark is none. The fields have their meaning together:
//
//	Pending  NotBefore  At             what happened
//	no       zero       zero           nothing that matters to the next refresh
//	yes      zero       of the send    the refresh token was sent; the process crashed, or is still at it
//	yes      set        of the send    the refresh token was sent, and the outcome is unknown
//	no       set        zero           the last try failed, and the refresh token is not spent
//	no       zero       of the answer  a refresh was forced: the server had refused the access token
//	no       set        of the answer  forced, and the next try failed; or, if At is not before the
//	                                   grant's ExpiresAt, the access token had expired when it arrived
//
// In the second and third row the refresh token may be spent. Generation says
// whose refresh token it is. A Mark of another generation says nothing about the
// stored grant, except for NewIssuerAt. A Mark that cannot be decoded is read as
// Pending with no generation, which may be about any grant.
//
// A key without a record can have a Mark too. It is then a note of its writer:
// package mcpclient counts registrations in Tries since At, and keeps in
// Generation and At that a request was refused.
type Mark struct {
	// Pending is set before a refresh token is sent. It is removed when the
	// answer is saved, or when the server has certainly not taken the token.
	Pending bool `json:"pending,omitempty"`

	// Generation is the grant whose refresh this is about. If the refresh brought
	// new tokens, it is that of the new grant.
	Generation string `json:"generation,omitempty"`

	// At is the time of the send or of the answer, see the table.
	At time.Time `json:"at,omitzero"`

	// Tries counts the sends of this refresh token, where Pending.
	Tries int `json:"tries,omitempty"`

	// NotBefore is the end of the back-off that all processes share.
	NotBefore time.Time `json:"not_before,omitzero"`

	// Failures counts the failed refreshes since the last success. The back-off
	// grows with it.
	Failures int `json:"failures,omitempty"`

	// NewIssuerAt is when a sign-in that nobody asked for last began at another
	// issuer than the grant's. It is not about a generation: refreshes and
	// sign-ins keep it until somebody asks for a sign-in.
	NewIssuerAt time.Time `json:"new_issuer_at,omitzero"`
}

func encodeMark(m Mark) []byte {
	data, err := json.Marshal(m)
	if err != nil {
		// JSON cannot hold a time beyond the year 9999, and holds everything else of
		// a Mark. Without its times it still says that a token may be spent.
		data, _ = json.Marshal(Mark{Pending: m.Pending, Generation: m.Generation, Tries: m.Tries, Failures: m.Failures})
	}
	return data
}

// decodeMark reads what encodeMark wrote. Anything else counts as pending, which
// is the careful reading: it costs a wait, and a spent token sent again costs
// the session.
func decodeMark(data []byte) Mark {
	var m Mark
	if json.Unmarshal(data, &m) != nil {
		return Mark{Pending: true}
	}
	return m
}
