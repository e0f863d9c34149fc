// Package postgres keeps tokens in PostgreSQL, for web applications with many
// users and several replicas: step 6 of the documented flow, "store tokens
// securely: always encrypted at rest".
//
// A [Store] uses the caller's pgxpool.Pool and one table, which [Migrate] makes.
// Records and marks are sealed with AES-256-GCM (NIST SP 800-38D) before they
// leave the process, each bound to its place in the table. Rows are named by a
// keyed hash (HMAC-SHA-256, RFC 2104). The database sees how many rows there
// are, when they change and how long they are, and no server, account, client or
// token.
//
// # Locks
//
// An Update holds a session-level advisory lock on one connection of the pool,
// and saves over that connection. Over another one, all holders of locks would
// wait for connections that none of them gives back. The lock ends with the
// connection: a process that dies frees it at once, and the server's
// idle_session_timeout ([Store.IdleTimeout]) frees the lock of a process that is
// stopped. At most half of the pool's connections hold locks or wait for them.
// Further callers wait for one of these connections, as long as for the lock
// itself. The other half serves Get, which takes no lock and gives its
// connection back at once. So a pool of 16 refreshes for 8 users at a time, at
// most 160 times a second if the token endpoint takes 50 ms; a user whose token
// lives holds nothing. If more callers come than there are connections, they
// queue in order for as long as the database answers those before them.
//
// Each write names the version that it replaces. If the connection breaks before
// a holder saves, it saves over a new one, and only if the version is still the
// one that it read. So it never undoes a save of another holder.
//
// A sign-in waits for a person. So the sign-in locks ([tokenstore.Key.SignIn])
// of a process share one connection beside the pool, opened for the first and
// closed after the last, and a slow person keeps nobody from refreshing. An
// Update inside an Update takes its lock on the outer one's connection.
//
// # The database
//
// The database is the primary of PostgreSQL 14 or newer. A proxy between it and
// the pool must not pool transactions or statements (PgBouncer's
// pool_mode=transaction), since locks belong to a session. The pool needs at
// least two connections. A save is as durable as synchronous_commit makes a
// commit.
//
// # Keys
//
// The first of [Store.Keys] seals, and all of them open. To rotate: put the new
// key second everywhere, then first everywhere, call [Store.Reseal], and remove
// the old key. Each save of a record seals it with the first key in any case.
//
// A role that can write to the table cannot read a token or make one up. It can
// put an older row back, from before a refresh or a sign-out. The authorization
// server takes the refresh token of such a row for stolen and ends the session.
// Sealing cannot show that a row is old, since nothing outside the table says
// which one is newest. A role that deletes rows signs people out. If it deletes
// the row of the key that names the others, every call returns
// [tokenstore.ErrCorrupt].
//
// # Other roles
//
// Any role of the database can see in pg_locks which advisory locks are held,
// and can hold one itself. Callers then wait until LockTimeout and get a
// [tokenstore.LockTimeoutError]. Every statement looks for the table along the
// search_path. So nobody but the table's owner may be allowed to make tables in
// the schemas up to its own; PostgreSQL 14 lets everybody make tables in public.
// [Migrate] refuses a table of another role, and cannot refuse one that is made
// later.
//
// The package does not make or keep keys. It deletes unused rows only when
// [Store.DeleteIdle] is called. It does not hide from the database which rows
// are active when.
package postgres
