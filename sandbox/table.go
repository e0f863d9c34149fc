package sandbox

// A table is a map that forgets its oldest entries when it is full, so that a
// sandbox which runs for weeks does not grow.
type table[V any] struct {
	max   int
	m     map[string]V
	order []string // by insertion; may name keys that are gone
}

func newTable[V any](max int) *table[V] { return &table[V]{max: max, m: make(map[string]V)} }

func (t *table[V]) get(key string) (V, bool) { v, ok := t.m[key]; return v, ok }

func (t *table[V]) delete(key string) { delete(t.m, key) }

// put adds a key that was never used before.
func (t *table[V]) put(key string, v V) {
	for len(t.m) >= t.max && len(t.order) > 0 {
		delete(t.m, t.order[0])
		t.order = t.order[1:]
	}
	t.m[key] = v
	t.order = append(t.order, key)
	if len(t.order) > 2*len(t.m)+64 {
		live := make([]string, 0, len(t.m))
		for _, k := range t.order {
			if _, ok := t.m[k]; ok {
				live = append(live, k)
			}
		}
		t.order = live
	}
}
