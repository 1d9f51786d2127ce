package serve

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

// Both are the two bodies as a reader sees them at one moment.
func (s *Site) Both() (document, keys []byte) {
	g := s.current.Load()
	return g.document.body, g.keys.body
}
