package main

// noCoreDump does nothing: Windows Error Reporting dumps a program's memory only if an administrator
// has set that.
func noCoreDump() {}
