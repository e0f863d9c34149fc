// Package workspace holds the data behind the sandbox's protected resource (step 7
// of the documented flow, and the Public API): a workspace of a fictitious company,
// in memory. It has the families of rows that Astravue documents for its API:
// spaces, projects, project and personal tasks, timers and timesheets, comments,
// subtasks, checklists, notifications and mentions.
//
// [Workspace.MCPServer] offers them as MCP tools, [Workspace.API] offers two of them
// as REST routes. Both ask their caller who the user is. The rules about what a user
// may see and do are in one file, rules.go.
//
// The first content depends only on the time: equal times give equal workspaces.
// Identifiers do not depend on the time. Times are UTC in whole seconds, durations
// are in seconds.
//
// The package does not authenticate, knows no tokens, keeps nothing on disk, and
// its tool names are its own: Astravue's may differ.
package workspace
