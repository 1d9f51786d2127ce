package serve

import "oidc-publisher/publish"

// Store stores an object behind the backend's back.
func (m *Memory) Store(name string, body []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.store(publish.Object{Name: name, Body: body})
}

// Remove deletes one.
func (m *Memory) Remove(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, name)
}
