// Package postgres keeps tokens in PostgreSQL, for web applications with many
// users and several replicas: step 6 of the documented flow, "store tokens
// securely: always encrypted at rest".
//
// A [Store] works over the caller's own pgxpool.Pool and one table, which
// [Migrate] makes. Records and pending marks are sealed with AES-256-GCM (NIST
// SP 800-38D) before they leave the process, each bound to its place in the
// table, and rows are named by a keyed hash (HMAC-SHA-256, RFC 2104): the
// database sees how many there are, when they change and how long they are,
// and no server, account, client or token.
//
// # Locks
//
// An Update holds a session-level advisory lock on one connection of the pool,
// and saves over that same connection: over another one, all who hold a lock
// would wait for a connection that none of them gives back. It ends with the
// connection, so a process that dies frees it at once. One that is stopped is
// freed by the server's idle_session_timeout ([Store.IdleTimeout]). At most
// half of the pool's connections hold locks or wait for them; who comes later
// waits for one of those, as long as for the lock itself. The other half
// serves Get, which takes no lock and gives its connection back at once. So a
// pool of 16 refreshes for 8 users at a time, at most 160 a second where the
// token endpoint takes 50 ms; a user whose token lives holds nothing. Where more
// callers come than there are connections they queue, in the order in which they
// came, for as long as the database answers those before them.
//
// Each write names the version that it replaces. If the connection is gone
// when a holder saves, it saves over a new one where the version is still the
// one that it read, and so never undoes what another holder has saved.
//
// A sign-in waits for a person. The sign-in locks ([tokenstore.Key.SignIn]) of
// a process therefore share one connection beside the pool, opened for the
// first and closed after the last, so that people who take their time keep
// nobody from refreshing. An Update inside an Update takes its lock on the
// connection that the outer one has.
//
// # The database
//
// PostgreSQL 14 or newer, the primary. A proxy between it and the pool must
// not pool transactions or statements (PgBouncer's pool_mode=transaction):
// locks belong to a session. The pool needs at least two connections. A save
// is as durable as synchronous_commit makes a commit.
//
// # Keys
//
// The first of [Store.Keys] seals, all of them open. To rotate: put the new key
// second everywhere, then first everywhere, call [Store.Reseal], and take the
// old key away. A record is sealed anew at each save in any case.
//
// Who may write to the table cannot read a token or make one up, and can put an
// older state back: a row of before a refresh, whose refresh token the
// authorization server takes for stolen and ends the session for, or one of
// before a sign-out. No seal tells, since nothing outside the table says what
// is newest. Who deletes rows signs people out; without the row of the key that
// names the others, every call is [tokenstore.ErrCorrupt].
//
// # Other roles
//
// Any role of the database sees in pg_locks which advisory locks are held, and
// may hold one itself: callers then wait until LockTimeout and get a
// [tokenstore.LockTimeoutError]. The table is looked for along the search_path
// by every statement, so that nobody but its owner may be allowed to make
// tables in the schemas up to its own; PostgreSQL 14 lets everybody make some
// in public. [Migrate] refuses a table that is another role's, and cannot refuse
// one that is made later.
//
// The package does not make keys or keep them, deletes what nobody uses any
// more only when [Store.DeleteIdle] is called, and does not hide from the
// database who is active when.
package postgres
