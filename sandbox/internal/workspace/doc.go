// Package workspace is what the sandbox's protected resource protects (step 7 of
// the documented flow, and the Public API): a workspace of a fictitious company,
// in memory, with the families that Astravue documents for its API: spaces,
// projects, project and personal tasks, timers and timesheets, comments,
// subtasks, checklists, notifications and mentions.
//
// [Workspace.MCPServer] offers them as MCP tools, [Workspace.API] two of them as
// REST routes. Both ask their caller who the user is; what a user may see and do
// is written in one place, rules.go.
//
// The seed depends on the clock and on nothing else: the same time gives the
// same workspace, and identifiers do not even depend on the time. Times are UTC
// in whole seconds, durations are seconds.
//
// The package does not authenticate, knows no tokens, keeps nothing on disk, and
// its tool names are its own: Astravue's may differ.
package workspace
