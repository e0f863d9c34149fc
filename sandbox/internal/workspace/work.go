package workspace

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

type space struct {
	ident
	Name        name      `json:"name"`
	Description prose     `json:"description,omitempty"`
	CreatedAt   time.Time `json:"created_at"`
}

func (s space) String() string { return line(s.ID, s.Name) }

type project struct {
	ident
	SpaceID     string    `json:"space_id"`
	Name        name      `json:"name"`
	Description prose     `json:"description,omitempty"`
	Status      phase     `json:"status"`
	DueDate     day       `json:"due_date,omitempty"`
	MemberIDs   []string  `json:"member_ids"`
	CreatedAt   time.Time `json:"created_at"`
}

func (p project) String() string {
	return line(p.ID, p.Name, p.Status, due(p.DueDate), "members "+strings.Join(p.MemberIDs, ", "))
}

// task holds the members that project tasks and personal tasks have in common.
type task struct {
	Title       name      `json:"title"`
	Description prose     `json:"description,omitempty"`
	Status      progress  `json:"status"`
	Priority    priority  `json:"priority"`
	DueDate     day       `json:"due_date,omitempty"`
	Estimate    effort    `json:"estimate_seconds,omitempty"`
	CreatedAt   time.Time `json:"created_at"`
	UpdatedAt   time.Time `json:"updated_at"`
}

type projectTask struct {
	ident
	ProjectID  string `json:"project_id"`
	AssigneeID string `json:"assignee_id,omitempty"`
	CreatedBy  string `json:"created_by"`
	task
}

func (t projectTask) String() string {
	return line(t.ID, t.Title, t.Status, t.Priority, t.AssigneeID, due(t.DueDate))
}

type personalTask struct {
	ident
	OwnerID string `json:"owner_id"`
	task
}

func (t personalTask) String() string {
	return line(t.ID, t.Title, t.Status, t.Priority, due(t.DueDate))
}

// line joins the parts that are not empty.
func line(parts ...any) string {
	var s []string
	for _, p := range parts {
		if p := fmt.Sprint(p); p != "" {
			s = append(s, p)
		}
	}
	return strings.Join(s, " · ")
}

func due(d day) string {
	if d == "" {
		return ""
	}
	return "due " + string(d)
}

const layout = time.DateOnly

func (d day) check(member string) error {
	if d == "" {
		return nil
	}
	if _, err := time.Parse(layout, string(d)); err != nil {
		return fmt.Errorf("%s %q is not a date of the calendar", member, d)
	}
	return nil
}

// set assigns an argument of an update. An absent argument is nil and changes nothing.
func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// taskFields are the arguments that tasks of both families take to create and update.
type taskFields struct {
	Description *prose    `json:"description,omitempty"`
	Status      *progress `json:"status,omitempty" jsonschema:"todo if it is not given at creation"`
	Priority    *priority `json:"priority,omitempty" jsonschema:"medium if it is not given at creation"`
	DueDate     *day      `json:"due_date,omitempty" jsonschema:"YYYY-MM-DD; empty for none"`
	Estimate    *effort   `json:"estimate_seconds,omitempty" jsonschema:"estimated work; 0 for none"`
}

func (f taskFields) apply(c *call, t task, title *name) (task, error) {
	before := t
	set(&t.Title, title)
	set(&t.Description, f.Description)
	set(&t.Status, f.Status)
	set(&t.Priority, f.Priority)
	set(&t.DueDate, f.DueDate)
	set(&t.Estimate, f.Estimate)
	if t != before {
		t.UpdatedAt = c.now
	}
	return t, t.DueDate.check("due_date")
}

func (c *call) newTask(title name, f taskFields) (task, error) {
	return f.apply(c, task{Title: title, Status: "todo", Priority: "medium", CreatedAt: c.now, UpdatedAt: c.now}, nil)
}

// taskFilter holds the arguments that lists of both families of tasks take.
type taskFilter struct {
	paging
	Status    progress `json:"status,omitempty"`
	Priority  priority `json:"priority,omitempty"`
	DueBefore day      `json:"due_before,omitempty" jsonschema:"only tasks due before this date, YYYY-MM-DD"`
	Query     string   `json:"query,omitempty" jsonschema:"part of the title, in any case"`
}

func (f taskFilter) match(t task) bool {
	return (f.Status == "" || t.Status == f.Status) && (f.Priority == "" || t.Priority == f.Priority) &&
		(f.DueBefore == "" || t.DueDate != "" && t.DueDate < f.DueBefore) && contains(t.Title, f.Query)
}

func contains(in name, part string) bool {
	return strings.Contains(strings.ToLower(string(in)), strings.ToLower(part))
}

// The arguments of the four families.
type (
	spaceFilter struct {
		paging
		Query string `json:"query,omitempty" jsonschema:"part of the name, in any case"`
	}
	newSpace struct {
		Name        name  `json:"name"`
		Description prose `json:"description,omitempty"`
	}
	spaceUpdate struct {
		ident
		Name        *name  `json:"name,omitempty"`
		Description *prose `json:"description,omitempty"`
	}

	projectFilter struct {
		paging
		SpaceID string `json:"space_id,omitempty" jsonschema:"only projects of this space"`
		Status  phase  `json:"status,omitempty"`
		Query   string `json:"query,omitempty" jsonschema:"part of the name, in any case"`
	}
	projectFields struct {
		Description *prose    `json:"description,omitempty"`
		Status      *phase    `json:"status,omitempty" jsonschema:"active if it is not given at creation"`
		DueDate     *day      `json:"due_date,omitempty" jsonschema:"YYYY-MM-DD; empty for none"`
		MemberIDs   *[]string `json:"member_ids,omitempty" jsonschema:"users who work on it; only the creator if it is not given at creation"`
	}
	newProject struct {
		SpaceID string `json:"space_id"`
		Name    name   `json:"name"`
		projectFields
	}
	projectUpdate struct {
		ident
		SpaceID *string `json:"space_id,omitempty" jsonschema:"the space to move it to"`
		Name    *name   `json:"name,omitempty"`
		projectFields
	}

	projectTaskFilter struct {
		taskFilter
		ProjectID  string `json:"project_id,omitempty" jsonschema:"only tasks of this project"`
		AssigneeID string `json:"assignee_id,omitempty" jsonschema:"only tasks of this user; me for your own"`
	}
	newProjectTask struct {
		ProjectID  string `json:"project_id"`
		Title      name   `json:"title"`
		AssigneeID string `json:"assignee_id,omitempty" jsonschema:"a member of the project, or me; nobody if it is not given"`
		taskFields
	}
	projectTaskUpdate struct {
		ident
		Title      *name   `json:"title,omitempty"`
		AssigneeID *string `json:"assignee_id,omitempty" jsonschema:"a member of the project, or me; empty for nobody"`
		taskFields
	}

	newPersonalTask struct {
		Title name `json:"title"`
		taskFields
	}
	personalTaskUpdate struct {
		ident
		Title *name `json:"title,omitempty"`
		taskFields
	}
)

func (f projectFields) apply(p project) (project, error) {
	set(&p.Description, f.Description)
	set(&p.Status, f.Status)
	set(&p.DueDate, f.DueDate)
	if f.MemberIDs != nil {
		p.MemberIDs = append([]string{}, *f.MemberIDs...)
		slices.Sort(p.MemberIDs)
		p.MemberIDs = slices.Compact(p.MemberIDs)
	}
	for _, m := range p.MemberIDs {
		if !known(m) {
			return p, fmt.Errorf("there is no user %q", m)
		}
	}
	return p, p.DueDate.check("due_date")
}

// assignable resolves an assignee: "me" is the caller. It returns an error unless
// the assignee is a member of the project.
func (c *call) assignable(id, projectID string) (string, error) {
	if id == "me" {
		id = c.user.ID
	}
	if p, _ := c.projects.get(projectID); id != "" && !slices.Contains(p.MemberIDs, id) {
		return "", fmt.Errorf("assignee %q is not a member of %s", id, projectID)
	}
	return id, nil
}

// addWork adds the tools for spaces, projects, project tasks and personal tasks.
func (s server) addWork() {
	w := s.w
	family[space, spaceFilter, newSpace, spaceUpdate]{
		noun: "space", table: &w.spaces, sees: (*call).seesSpace,
		hints: [3]string{", by part of the name if given", " (owner and admins)", ", if no project is left in it (owner)"},
		filter: func(c *call, in spaceFilter) (func(space) bool, error) {
			return func(s space) bool { return contains(s.Name, in.Query) }, nil
		},
		create: func(c *call, in newSpace) (space, error) {
			return space{c.spaces.next(), in.Name, in.Description, c.now}, nil
		},
		update: func(c *call, s space, in spaceUpdate) (space, error) {
			set(&s.Name, in.Name)
			set(&s.Description, in.Description)
			return s, nil
		},
		remove: func(c *call, s space) error {
			for _, p := range c.projects.rows {
				if p.SpaceID == s.ID {
					return fmt.Errorf("%s still holds %s and cannot be deleted", s.ID, p.ID)
				}
			}
			return nil
		},
	}.add(s)

	sees := func(c *call, id string) error {
		_, err := find(&c.spaces, "space", id, c.seesSpace)
		return err
	}
	family[project, projectFilter, newProject, projectUpdate]{
		noun: "project", table: &w.projects, sees: (*call).seesProject,
		hints: [3]string{", by space, status and part of the name if given", " in a space (owner and admins)",
			" with its tasks and their timers (owner and admins)"},
		filter: func(c *call, in projectFilter) (func(project) bool, error) {
			return func(p project) bool {
				return (in.SpaceID == "" || p.SpaceID == in.SpaceID) && (in.Status == "" || p.Status == in.Status) && contains(p.Name, in.Query)
			}, nil
		},
		create: func(c *call, in newProject) (p project, err error) {
			if err := sees(c, in.SpaceID); err != nil {
				return p, err
			}
			p, err = in.apply(project{SpaceID: in.SpaceID, Name: in.Name, Status: "active", MemberIDs: []string{c.user.ID}, CreatedAt: c.now})
			if err == nil {
				p.ident = c.projects.next()
			}
			return p, err
		},
		update: func(c *call, p project, in projectUpdate) (project, error) {
			set(&p.SpaceID, in.SpaceID)
			set(&p.Name, in.Name)
			if err := sees(c, p.SpaceID); err != nil {
				return p, err
			}
			return in.apply(p)
		},
		remove: func(c *call, p project) error {
			c.tasks.drop(func(t projectTask) bool {
				if t.ProjectID == p.ID {
					c.forget(t.ID)
				}
				return t.ProjectID == p.ID
			})
			return nil
		},
	}.add(s)

	family[projectTask, projectTaskFilter, newProjectTask, projectTaskUpdate]{
		noun: "project task", table: &w.tasks, sees: (*call).seesTask, owns: (*call).ownsTask,
		hints: [3]string{", by project, assignee, status, priority, due date and part of the title if given", " in a project that you can see",
			" with its subtasks, checklists, comments and timers"},
		filter: func(c *call, in projectTaskFilter) (func(projectTask) bool, error) {
			if in.AssigneeID == "me" {
				in.AssigneeID = c.user.ID
			}
			return func(t projectTask) bool {
				return (in.ProjectID == "" || t.ProjectID == in.ProjectID) && (in.AssigneeID == "" || t.AssigneeID == in.AssigneeID) && in.match(t.task)
			}, in.DueBefore.check("due_before")
		},
		create: func(c *call, in newProjectTask) (t projectTask, err error) {
			if _, err = find(&c.projects, "project", in.ProjectID, c.seesProject); err != nil {
				return t, err
			}
			if in.AssigneeID, err = c.assignable(in.AssigneeID, in.ProjectID); err != nil {
				return t, err
			}
			fields, err := c.newTask(in.Title, in.taskFields)
			if err != nil {
				return t, err
			}
			return projectTask{c.tasks.next(), in.ProjectID, in.AssigneeID, c.user.ID, fields}, nil
		},
		update: func(c *call, t projectTask, in projectTaskUpdate) (_ projectTask, err error) {
			if in.AssigneeID != nil {
				before := t.AssigneeID
				if t.AssigneeID, err = c.assignable(*in.AssigneeID, t.ProjectID); err != nil {
					return t, err
				}
				if t.AssigneeID != before {
					t.UpdatedAt = c.now
				}
			}
			t.task, err = in.apply(c, t.task, in.Title)
			return t, err
		},
		remove: func(c *call, t projectTask) error { c.forget(t.ID); return nil },
	}.add(s)

	family[personalTask, taskFilter, newPersonalTask, personalTaskUpdate]{
		noun: "personal task", table: &w.personal, sees: (*call).seesPersonal, owns: (*call).seesPersonal,
		hints: [3]string{", by status, priority, due date and part of the title if given", " that nobody else sees",
			" with its subtasks, checklists and timers"},
		filter: func(c *call, in taskFilter) (func(personalTask) bool, error) {
			return func(t personalTask) bool { return in.match(t.task) }, in.DueBefore.check("due_before")
		},
		create: func(c *call, in newPersonalTask) (t personalTask, err error) {
			if t.task, err = c.newTask(in.Title, in.taskFields); err == nil {
				t.ident, t.OwnerID = c.personal.next(), c.user.ID
			}
			return t, err
		},
		update: func(c *call, t personalTask, in personalTaskUpdate) (_ personalTask, err error) {
			t.task, err = in.apply(c, t.task, in.Title)
			return t, err
		},
		remove: func(c *call, t personalTask) error { c.forget(t.ID); return nil },
	}.add(s)
}

// forget removes all rows that belong to a task.
func (c *call) forget(taskID string) {
	c.checklists.drop(func(l checklist) bool {
		s, ok := c.subtasks.get(l.SubtaskID)
		return l.TaskID == taskID || ok && s.TaskID == taskID
	})
	c.subtasks.drop(func(s subtask) bool { return s.TaskID == taskID })
	c.comments.drop(func(m comment) bool { return m.TaskID == taskID })
	c.timers.drop(func(t timer) bool { return t.TaskID == taskID })
	c.notifications.drop(func(n notice) bool { return n.TaskID == taskID })
	c.mentions.drop(func(n notice) bool { return n.TaskID == taskID })
}
