// Package tokenstore keeps the tokens of a sign-in: step 6 of the documented
// flow, "store tokens securely: in the OS keychain, always encrypted at rest".
//
// A [Store] holds two kinds of record, a [Registration] per issuer,
// application, origin of servers and redirect addresses, and a [Grant] per
// server and account. [Keychain] keeps them in the operating system's
// keychain, [File] in files sealed with age, [Memory] in this process. Package
// tokenstore/storetest tests whether another implementation keeps the contract.
//
// [Store.Update] is the only way to write. It holds a lock across goroutines and
// processes while a record is read, changed and written. Rotating refresh tokens
// are spent under that lock only. Reading takes no lock and yields a record as
// one save wrote it, even if a process was killed during another save.
//
// The package does not talk to servers, does not know when a token is fresh, and
// never falls back from one store to another. It protects records from other
// programs of the same user only as far as the operating system does.
package tokenstore
