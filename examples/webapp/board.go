package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// board is what a user's page shows.
type board struct {
	Company  string
	You      person
	Tasks    []task // assigned to the user
	Personal []task
	Projects []project
}

type person struct {
	Name string `json:"name"`
	Role string `json:"role"`
}

type project struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
	Status      string `json:"status"`
	DueDate     string `json:"due_date"`
}

type task struct {
	ProjectID string `json:"project_id"`
	Title     string `json:"title"`
	Status    string `json:"status"`
	Priority  string `json:"priority"`
	DueDate   string `json:"due_date"`

	Project string `json:"-"` // its name
}

// loadBoard asks Astravue, as the user, for everything that the page shows.
func loadBoard(ctx context.Context, u *user) (*board, error) {
	session, err := u.connected(ctx)
	if err != nil {
		return nil, err
	}
	b := &board{}
	if err := b.loadWorkspace(ctx, session); err != nil {
		return nil, err
	}
	if b.Projects, err = list[project](ctx, session, "list_projects", nil); err != nil {
		return nil, err
	}
	if b.Tasks, err = list[task](ctx, session, "list_project_tasks", map[string]any{"assignee_id": "me"}); err != nil {
		return nil, err
	}
	if b.Personal, err = list[task](ctx, session, "list_personal_tasks", nil); err != nil {
		return nil, err
	}
	names := make(map[string]string)
	for _, p := range b.Projects {
		names[p.ID] = p.Name
	}
	for i, t := range b.Tasks {
		b.Tasks[i].Project = names[t.ProjectID]
	}
	slices.SortStableFunc(b.Tasks, nextFirst)
	slices.SortStableFunc(b.Personal, nextFirst)
	return b, nil
}

// nextFirst orders tasks by due date. Tasks without a date follow, and then those that are done.
func nextFirst(a, b task) int {
	rank := func(t task) string {
		switch {
		case t.Status == "done":
			return "z"
		case t.DueDate == "":
			return "y"
		}
		return t.DueDate
	}
	return cmp.Compare(rank(a), rank(b))
}

// loadWorkspace reads the resource that names the workspace and the user.
func (b *board) loadWorkspace(ctx context.Context, session *mcp.ClientSession) error {
	const uri = "astravue://workspace"
	res, err := session.ReadResource(ctx, &mcp.ReadResourceParams{URI: uri})
	if err != nil {
		return err
	}
	if len(res.Contents) != 1 {
		return fmt.Errorf("resource %s has %d parts, not one", uri, len(res.Contents))
	}
	if err := json.Unmarshal([]byte(res.Contents[0].Text), b); err != nil {
		return fmt.Errorf("resource %s: %w", uri, err)
	}
	return nil
}

// mostPages bounds a list: a server could always name a next page.
const mostPages = 50

// list calls a tool that lists things, and returns the items of all pages.
func list[T any](ctx context.Context, session *mcp.ClientSession, tool string, filter map[string]any) ([]T, error) {
	args := map[string]any{"limit": 100}
	for name, value := range filter {
		args[name] = value
	}
	var all []T
	for range mostPages {
		res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: args})
		if err != nil {
			return nil, err
		}
		if res.IsError {
			return nil, fmt.Errorf("the tool %s reported an error", tool)
		}
		data, err := json.Marshal(res.StructuredContent)
		if err != nil {
			return nil, err
		}
		var page struct {
			Items      []T    `json:"items"`
			NextCursor string `json:"next_cursor"`
		}
		if err := json.Unmarshal(data, &page); err != nil {
			return nil, fmt.Errorf("answer of the tool %s: %w", tool, err)
		}
		all = append(all, page.Items...)
		if page.NextCursor == "" {
			return all, nil
		}
		args["cursor"] = page.NextCursor
	}
	return nil, fmt.Errorf("the tool %s lists more than %d pages", tool, mostPages)
}
