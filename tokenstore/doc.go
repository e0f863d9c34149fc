// Package tokenstore keeps what a sign-in yields: step 6 of the documented
// flow, "store tokens securely: in the OS keychain, always encrypted at rest".
//
// A [Store] holds two kinds of record, a [Registration] per issuer,
// application, origin of servers and redirect addresses, and a [Grant] per
// server and account. [Keychain] keeps them in the operating system's
// keychain, [File] in files sealed with age, [Memory] in this process; package
// tokenstore/storetest proves that any other implementation keeps the contract.
//
// Writing has one way only, [Store.Update], which holds a lock across
// goroutines and processes over read, change and write. Rotating refresh
// tokens are spent under it and nowhere else. Reading takes no lock and sees
// each record as some save left it whole, whoever was killed meanwhile.
//
// The package does not talk to any server, does not know when a token is
// fresh, and never falls back from one store to another. It does not protect
// records from other programs of the same user where the operating system
// does not.
package tokenstore
