package workspace

import (
	"errors"
	"fmt"
	"slices"
)

// rules is the resource astravue://rules. It describes the rest of this file to
// models and people.
const rules = `# What each role sees and may do

- The owner and the admins see every space and project. A member sees the projects of which he or she is a member, and
  the spaces that hold one of them. What somebody does not see is answered like something that does not exist.
- Spaces: the owner and the admins create and update them; only the owner deletes one, and only an empty one.
- Projects: the owner and the admins create, update and delete them. With a project go its tasks and their timers.
- Project tasks: whoever sees the project reads and creates them. A member updates and deletes those that he or she
  created or is assigned to; the owner and the admins all. An assignee is a member of the project.
- Personal tasks belong to one user, and nobody else sees them or the time on them, not even the owner.
- Timers: everybody starts, stops and enters time for himself or herself. A member sees and edits his or her own time
  only; the owner and the admins see, update and delete everybody's time on projects.
- One timer runs per user. Times with a start and an end never overlap, and none is in the future.
- Notifications and mentions belong to one user.
`

// A need is the least standing that a user must have to change a row that he or she
// sees.
type need int

const (
	everyone need = iota
	own           // the row's user, the owner and the admins
	admins        // the owner and the admins
	owners        // the owner
)

const create, update, remove = "create", "update", "delete"

var needs = map[string]map[string]need{
	"space":         {create: admins, update: admins, remove: owners},
	"project":       {create: admins, update: admins, remove: admins},
	"project task":  {create: everyone, update: own, remove: own},
	"personal task": {create: everyone, update: own, remove: own},
	"timer":         {create: everyone, update: own, remove: own},
}

// may returns an error unless the user may do verb to a noun. mine says whether the
// row is the user's own.
func (c *call) may(verb, noun string, mine bool) error {
	n := needs[noun][verb]
	switch {
	case n == everyone, n == own && mine, n <= admins && c.manages(), c.user.Role == Owner:
		return nil
	case n == own:
		return fmt.Errorf("the role %s may %s only a %s of one's own", c.user.Role, verb, noun)
	}
	return fmt.Errorf("the role %s may not %s a %s", c.user.Role, verb, noun)
}

func (c *call) manages() bool { return c.user.Role == Owner || c.user.Role == Admin }

func (c *call) seesProject(p project) bool {
	return c.manages() || slices.Contains(p.MemberIDs, c.user.ID)
}

func (c *call) seesSpace(s space) bool {
	return c.manages() || slices.ContainsFunc(c.projects.rows, func(p project) bool {
		return p.SpaceID == s.ID && c.seesProject(p)
	})
}

func (c *call) seesTask(t projectTask) bool {
	p, ok := c.projects.get(t.ProjectID)
	return ok && c.seesProject(p)
}

func (c *call) seesPersonal(t personalTask) bool { return t.OwnerID == c.user.ID }

func (c *call) seesTimer(t timer) bool {
	return t.UserID == c.user.ID || c.manages() && t.ProjectID != ""
}

func (c *call) seesNotice(n notice) bool { return n.UserID == c.user.ID }

func (c *call) ownsTask(t projectTask) bool {
	return t.AssigneeID == c.user.ID || t.CreatedBy == c.user.ID
}

// whose resolves the argument user of a report: "me" is the caller. It returns an
// error if the caller may not read that user's time.
func (c *call) whose(user string) (string, error) {
	switch {
	case user == "me" || user == c.user.ID:
		return c.user.ID, nil
	case !known(user):
		return "", fmt.Errorf("there is no user %q", user)
	case !c.manages():
		return "", fmt.Errorf("the role %s may read only one's own time", c.user.Role)
	}
	return user, nil
}

var errNobody = errors.New("the request is made by no user of this workspace")

// find returns the row id of t. Hidden and missing rows have one error, so that it
// does not tell them apart.
func find[T row](t *table[T], noun, id string, sees func(T) bool) (T, error) {
	r, ok := t.get(id)
	if !ok || !sees(r) {
		var none T
		return none, fmt.Errorf("there is no %s %q that you can see", noun, id)
	}
	return r, nil
}
