package main

// noCoreDump does nothing: Windows Error Reporting dumps the memory of a
// program only where an administrator has set that.
func noCoreDump() {}
