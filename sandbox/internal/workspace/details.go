package workspace

import (
	"fmt"
	"strings"
	"time"
)

type comment struct {
	ident
	TaskID    string    `json:"task_id"`
	AuthorID  string    `json:"author_id"`
	Body      string    `json:"body"`
	CreatedAt time.Time `json:"created_at"`
}

func (m comment) String() string { return line(m.ID, m.AuthorID, m.Body) }

type subtask struct {
	ident
	TaskID string `json:"task_id"`
	Title  string `json:"title"`
	Done   bool   `json:"done"`
}

func (s subtask) String() string { return line(s.ID, box(s.Done)+s.Title) }

type checklist struct {
	ident
	TaskID    string `json:"task_id,omitempty" jsonschema:"absent if it belongs to a subtask"`
	SubtaskID string `json:"subtask_id,omitempty" jsonschema:"absent if it belongs to a task"`
	Title     string `json:"title"`
	Items     []item `json:"items"`
}

type item struct {
	Text string `json:"text"`
	Done bool   `json:"done"`
}

func (l checklist) String() string {
	s := line(l.ID, l.Title)
	for _, i := range l.Items {
		s += "\n  " + box(i.Done) + i.Text
	}
	return s
}

func box(done bool) string {
	if done {
		return "[x] "
	}
	return "[ ] "
}

// A notice is a notification or a mention.
type notice struct {
	ident
	UserID    string    `json:"user_id" jsonschema:"whom it is for"`
	ActorID   string    `json:"actor_id" jsonschema:"who caused it"`
	TaskID    string    `json:"task_id"`
	CommentID string    `json:"comment_id,omitempty"`
	Text      string    `json:"text"`
	Read      bool      `json:"read"`
	CreatedAt time.Time `json:"created_at"`
}

func (n notice) String() string {
	if n.Read {
		return line(n.ID, n.Text)
	}
	return line(n.ID, "unread", n.Text)
}

// The arguments of the tools in this file.
type (
	taskPage struct {
		paging
		taskRef
	}
	subtaskPage struct {
		paging
		SubtaskID string `json:"subtask_id"`
	}
	noticePage struct {
		paging
		Unread bool `json:"unread_only,omitempty"`
	}
)

// addDetails adds the tools for comments, subtasks, checklists, notifications and
// mentions.
func (s server) addDetails() {
	w := s.w
	addList(s, "list_task_comments", "Lists the comments of a project task, oldest first.", &w.comments, false,
		func(c *call, in taskPage) (func(comment) bool, error) {
			_, err := find(&c.tasks, "project task", in.TaskID, c.seesTask)
			return func(m comment) bool { return m.TaskID == in.TaskID }, err
		})
	subtasksOf := func(in taskPage) func(subtask) bool { return func(s subtask) bool { return s.TaskID == in.TaskID } }
	addList(s, "list_project_task_subtasks", "Lists the subtasks of a project task.", &w.subtasks, false,
		func(c *call, in taskPage) (func(subtask) bool, error) {
			_, err := find(&c.tasks, "project task", in.TaskID, c.seesTask)
			return subtasksOf(in), err
		})
	addList(s, "list_personal_task_subtasks", "Lists the subtasks of a personal task.", &w.subtasks, false,
		func(c *call, in taskPage) (func(subtask) bool, error) {
			_, err := find(&c.personal, "personal task", in.TaskID, c.seesPersonal)
			return subtasksOf(in), err
		})
	addList(s, "list_task_checklists", "Lists the checklists of a task of either family; those of its subtasks are not among them.", &w.checklists, false,
		func(c *call, in taskPage) (func(checklist) bool, error) {
			_, err := c.parent(in.TaskID)
			return func(l checklist) bool { return l.TaskID == in.TaskID }, err
		})
	addList(s, "list_subtask_checklists", "Lists the checklists of a subtask.", &w.checklists, false,
		func(c *call, in subtaskPage) (func(checklist) bool, error) {
			_, err := find(&c.subtasks, "subtask", in.SubtaskID, func(s subtask) bool { _, err := c.parent(s.TaskID); return err == nil })
			return func(l checklist) bool { return l.SubtaskID == in.SubtaskID }, err
		})
	for _, t := range []*table[notice]{&w.notifications, &w.mentions} {
		noun := t.prefix
		addList(s, "list_"+noun+"s", "Lists your "+noun+"s, newest first.", t, true,
			func(c *call, in noticePage) (func(notice) bool, error) {
				return func(n notice) bool { return c.seesNotice(n) && !(in.Unread && n.Read) }, nil
			})
		add(s, marks, "mark_"+noun+"_read", "Marks one of your "+noun+"s as read.", func(c *call, in ident) (notice, error) {
			n, err := find(t, noun, in.ID, c.seesNotice)
			if err != nil {
				return n, err
			}
			n.Read = true
			return t.put(n), nil
		})
		addDelete(s, "delete_"+noun, "Deletes one of your "+noun+"s.", t, func(c *call, id string) error {
			_, err := find(t, noun, id, c.seesNotice)
			return err
		})
	}
}

// say adds a comment, a notification for the assignee, and a mention for each user
// named with @. The seed has old comments: their notices are marked as read if they
// are more than two days old.
func (w *Workspace) say(t projectTask, author, body string, at, now time.Time) {
	m := w.comments.put(comment{w.comments.next(), t.ID, author, body, at})
	n := notice{ActorID: author, TaskID: t.ID, CommentID: m.ID, Read: now.Sub(at) > 48*time.Hour, CreatedAt: at}
	if t.AssigneeID != "" && t.AssigneeID != author {
		n.ident, n.UserID = w.notifications.next(), t.AssigneeID
		n.Text = fmt.Sprintf("%s commented on %q", author, t.Title)
		w.notifications.put(n)
	}
	for _, u := range Users() {
		if strings.Contains(body, "@"+u.ID) {
			n.ident, n.UserID = w.mentions.next(), u.ID
			n.Text = fmt.Sprintf("%s mentioned you on %q: %s", author, t.Title, body)
			w.mentions.put(n)
		}
	}
}
