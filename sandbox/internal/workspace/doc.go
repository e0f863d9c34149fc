// Package workspace holds the data behind the sandbox's protected resource (step 7
// of the documented flow, and the Public API): a workspace of a fictitious company,
// in memory. It has the families of rows that Astravue documents for its API:
// spaces, projects, project and personal tasks, timers and timesheets, comments,
// subtasks, checklists, notifications and mentions.
//
// [Workspace.MCPServer] offers them as MCP tools. [Workspace.API] offers projects as
// two REST routes. Both ask their caller who the user is. rules.go says which rows a
// user sees, and which of them he or she may change.
//
// The first content depends on the time alone: two workspaces that are made at one
// time are equal. Identifiers do not depend on the time. Times are UTC in whole
// seconds; durations are in seconds.
//
// The package authenticates nobody and keeps nothing on disk. Its tool names are
// made up: Astravue's may differ.
package workspace
