package web

import "oidc-publisher/publish"

// Smuggle stores an object behind the backend's back.
func (s *Site) Smuggle(name string, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store(publish.Object{Name: name, Body: body})
}

// Remove deletes one.
func (s *Site) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, name)
}
